"""The four assets of a cell: generations, detections, metrics, condition_reports. Layer subset x scale."""

import dagster as dg

from backtracking_assets.analysis.detection import rules_digest
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.assets.cell_metadata import (
    detections_metadata,
    generations_metadata,
    metrics_metadata,
    report_metadata,
)
from backtracking_assets.assets.checks import check_results, check_specs, fail_on_errors, identity_check
from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.assets.generating import Generation, ensure_completions
from backtracking_assets.assets.identity import probe_identity
from backtracking_assets.assets.measuring import check_completions, measure_cell, read_completions
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.pages import write_cell_report
from backtracking_assets.assets.progress import logged
from backtracking_assets.assets.pushing import cell_finished
from backtracking_assets.assets.stored_cells import checks_of_cell, current_baseline, linked_cell
from backtracking_assets.assets.tracking import track_cell
from backtracking_assets.conditions import GENERATOR_VERSION
from backtracking_assets.execution.gpu_executor import GPU_POOL
from backtracking_assets.experiment import Experiment
from backtracking_assets.partitions import LAYER_SUBSET, cell_of, grid_partitions
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage.database import reading


def cell_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The cell assets of an experiment, upstream first."""
    return [_generations(experiment), _detections(experiment), _metrics(experiment), _condition_reports(experiment)]


def _cell(context: dg.AssetExecutionContext) -> Cell:
    key = context.partition_key
    assert isinstance(key, dg.MultiPartitionKey)
    return cell_of(key)


def _identity(opened: OpenExperiment, cell: Cell, made: Generation) -> CheckOutcome:
    """The identity check of a cell; the one that is stored where it was made for these very completions.

    The store removes a cell's checks when its completions change. Without this, linking would load the model. A failed
    one is made again: what broke it may be mended.
    """
    if made.linked:
        for outcome in checks_of_cell(opened, cell):
            if outcome.name == "identity_at_scale_1" and outcome.passed:
                return outcome
    return identity_check(probe_identity(opened, cell))


def _generations(experiment: Experiment) -> dg.AssetsDefinition:
    by_subset = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name=LAYER_SUBSET)

    @dg.asset(
        key=[experiment.name, "generations"],
        partitions_def=grid_partitions(experiment),
        deps=[
            dg.AssetDep([experiment.name, "problems"]),
            dg.AssetDep([experiment.name, "model_checkpoint"]),
            dg.AssetDep([experiment.name, "sampling_settings"]),
            dg.AssetDep([experiment.name, "layer_subsets"], partition_mapping=by_subset),
        ],
        group_name=f"{experiment.name}_phase2",
        description="Completions with the subset's components scaled at decode steps; an existing condition is linked.",
        kinds={"pytorch", "duckdb"},
        code_version=GENERATOR_VERSION,
        pool=GPU_POOL,
        check_specs=check_specs(experiment, "generations"),
    )
    @readable_failures
    def generations(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened, cell = OpenExperiment(experiment), _cell(context)

        made = ensure_completions(
            opened, cell, run_id=context.run.run_id, log=context.log.info, on_progress=logged(context.log.info)
        )
        stored = made.stored
        assert stored is not None
        outcomes = check_completions(stored, context.run.run_id, _identity(opened, cell, made), with_model=True)
        fail_on_errors(cell, outcomes)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(stored.completions_version()),
            check_results=check_results(outcomes),
            metadata={"generated_now": made.n_generated, "linked": made.linked, **generations_metadata(stored)},
        )

    return generations


def _detections(experiment: Experiment) -> dg.AssetsDefinition:
    @dg.asset(
        key=[experiment.name, "detections"],
        partitions_def=grid_partitions(experiment),
        deps=[[experiment.name, "generations"]],
        group_name=f"{experiment.name}_phase2",
        description="Triggers, answers, degeneration and exact steps, found in each completion.",
        kinds={"duckdb"},
        code_version=rules_digest(experiment.detection)[:12],
        check_specs=check_specs(experiment, "detections"),
    )
    @readable_failures
    def detections(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened, cell = OpenExperiment(experiment), _cell(context)
        with reading(opened.layout):
            linked, baseline = linked_cell(opened, cell), None
            _ = linked.completions
            if cell.scale != BASELINE_SCALE:
                baseline = current_baseline(opened)
                if baseline is not None:
                    baseline.load()
        stored, outcomes = read_completions(linked, context.run.run_id)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(stored.version()),
            check_results=check_results(outcomes),
            metadata=detections_metadata(stored, baseline),
        )

    return detections


def _metrics(experiment: Experiment) -> dg.AssetsDefinition:
    @dg.asset(
        key=[experiment.name, "metrics"],
        partitions_def=grid_partitions(experiment),
        deps=[[experiment.name, "detections"]],
        group_name=f"{experiment.name}_phase2",
        description="Rates with intervals clustered by problem, and the denominators they stand on.",
        kinds={"duckdb"},
        code_version=statistics_digest(experiment.statistics)[:12],
        check_specs=check_specs(experiment, "metrics"),
    )
    @readable_failures
    def metrics(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened, cell = OpenExperiment(experiment), _cell(context)
        stored, table, outcomes = measure_cell(opened, cell, context.run.run_id)
        fail_on_errors(cell, outcomes)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(stored.metrics_version()),
            check_results=check_results(outcomes),
            metadata=metrics_metadata(table.to_pylist()),
        )

    return metrics


def _condition_reports(experiment: Experiment) -> dg.AssetsDefinition:
    @dg.asset(
        key=[experiment.name, "condition_reports"],
        partitions_def=grid_partitions(experiment),
        deps=[[experiment.name, "metrics"]],
        group_name=f"{experiment.name}_phase2",
        description="One HTML page a cell: rates beside the baseline's, checks, examples, provenance.",
        kinds={"html"},
        code_version="1",
    )
    @readable_failures
    def condition_reports(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened, cell = OpenExperiment(experiment), _cell(context)
        page = write_cell_report(opened, cell, context.run.run_id)
        cell_finished(experiment, context.log.warning)
        track_cell(opened, cell, context.log.warning)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(page.report.version),
            metadata=report_metadata(experiment, page.report, page.path, page.overview),
        )

    return condition_reports
