"""The four assets of a cell: generations, detections, metrics, condition_reports. Layer subset x scale."""

import dagster as dg

from backtracking_assets.analysis.detection import detect, rules_digest
from backtracking_assets.analysis.metrics import cell_metrics, statistics_digest
from backtracking_assets.assets.checks import (
    check_results,
    check_specs,
    checks_table,
    detection_checks,
    fail_on_errors,
    generation_checks,
    identity_check,
    metric_checks,
)
from backtracking_assets.assets.contents import examples
from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.assets.generating import Generation, ensure_completions
from backtracking_assets.assets.identity import probe_identity
from backtracking_assets.assets.non_finite import with_origin
from backtracking_assets.assets.open_experiment import OpenExperiment, component_names
from backtracking_assets.assets.pages import write_cell_report
from backtracking_assets.assets.presentation import column_schema, examples_md, metrics_table, png_figure
from backtracking_assets.assets.progress import Progress, tell
from backtracking_assets.assets.provenance import commit, tokens_per_second
from backtracking_assets.assets.stored_cells import checks_of, current_baseline, detected_cell, linked_cell
from backtracking_assets.conditions import GENERATOR_VERSION, Condition, digest
from backtracking_assets.execution.gpu_executor import GPU_POOL
from backtracking_assets.experiment import BASELINE_SCALE, Experiment
from backtracking_assets.partitions import LAYER_SUBSET, cell_of, grid_partitions
from backtracking_assets.records import COMPLETIONS, DETECTIONS, METRICS, Cell
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.reporting.figures import cell_overview
from backtracking_assets.reporting.style import to_png
from backtracking_assets.storage.commits import write_checks, write_detections, write_metrics


def cell_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The cell assets of an experiment, upstream first."""
    return [_generations(experiment), _detections(experiment), _metrics(experiment), _condition_reports(experiment)]


def _cell(context: dg.AssetExecutionContext) -> Cell:
    key = context.partition_key
    assert isinstance(key, dg.MultiPartitionKey)
    return cell_of(key)


def completions_version(opened: OpenExperiment, condition: Condition) -> str:
    """Data version of a cell's generations: which completions they are."""
    return digest([condition.fingerprint, opened.problem_set_digest, opened.experiment.problems.samples])


def _identity(opened: OpenExperiment, cell: Cell, made: Generation) -> CheckOutcome:
    """The identity check of a cell; the one that is stored where it was made for these very completions.

    The store removes a cell's checks when its completions change. Without this, linking would load the model. A failed
    one is made again: what broke it may be mended.
    """
    if made.linked:
        for outcome in checks_of(opened).get(cell, ()):
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

        def report(progress: Progress) -> None:
            if progress.step == 0:  # an event each second would fill Dagster's log
                context.log.info(str(progress))
            tell(progress)

        made = ensure_completions(opened, cell, run_id=context.run.run_id, log=context.log.info, on_progress=report)
        completions = linked_cell(opened, cell).completions
        outcomes = generation_checks(experiment, made.condition, completions, _identity(opened, cell, made))
        outcomes = with_origin(opened, made.condition, completions, outcomes)
        write_checks(opened.layout, checks_table(cell, "generations", outcomes, context.run.run_id))
        fail_on_errors(cell, outcomes)
        finish = completions["finish_reason"].value_counts().to_pylist()
        return dg.MaterializeResult(
            data_version=dg.DataVersion(completions_version(opened, made.condition)),
            check_results=check_results(outcomes),
            metadata={
                "dagster/row_count": completions.num_rows,
                "dagster/column_schema": column_schema(COMPLETIONS),
                "generated_now": made.n_generated,
                "linked": made.linked,
                **({} if (speed := tokens_per_second(completions)) is None else {"tokens_per_second": round(speed, 1)}),
                "mean_tokens": round(sum(completions["n_tokens"].to_pylist()) / max(completions.num_rows, 1), 1),
                "finish_reasons": dg.MetadataValue.json({row["values"]: row["counts"] for row in finish}),
                "device": ", ".join(sorted(set(completions["device"].to_pylist()))),
                "fingerprint": made.condition.fingerprint,
                "components": ", ".join(component_names(experiment, cell.layer_subset)),
                "condition": dg.MetadataValue.json(made.condition.model_dump(mode="json")),
                "generated_by": dg.MetadataValue.dagster_run(completions["run_id"][0].as_py()),
                "database": dg.MetadataValue.path(str(opened.layout.database)),
                "commit": commit(),
            },
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
        stored = linked_cell(opened, cell)
        found = detect(stored.completions, opened.problems, experiment.detection, run_id=context.run.run_id)
        write_detections(opened.layout, found, cell=cell)
        outcomes = detection_checks(experiment.checks, found)
        write_checks(opened.layout, checks_table(cell, "detections", outcomes, context.run.run_id))
        baseline = None if cell.scale == BASELINE_SCALE else current_baseline(opened)
        onsets = found["onset_phrase"].drop_null().value_counts().to_pylist()
        return dg.MaterializeResult(
            data_version=dg.DataVersion(detected_cell(opened, cell).version()),
            check_results=check_results(outcomes),
            metadata={
                "dagster/row_count": found.num_rows,
                "dagster/column_schema": column_schema(DETECTIONS),
                "with_strict_trigger": sum(found["has_strict"].to_pylist()),
                "with_relaxed_trigger": sum(found["has_relaxed"].to_pylist()),
                "degenerate": sum(found["degenerate"].to_pylist()),
                "correct": sum(found["correct"].to_pylist()),
                "onset_phrases": dg.MetadataValue.json({row["values"]: row["counts"] for row in onsets}),
                "rules_digest": opened.rules_digest,
                "examples": examples_md(examples(detected_cell(opened, cell), baseline)),
            },
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
        stored = detected_cell(opened, cell)
        table = cell_metrics(
            stored.completions,
            stored.detections,
            opened.problems,
            cell=cell,
            problem_set_digest=stored.problem_set_digest,
            statistics=experiment.statistics,
            run_id=context.run.run_id,
        )
        write_metrics(opened.layout, table)
        outcomes = metric_checks(experiment.checks, cell, table)
        write_checks(opened.layout, checks_table(cell, "metrics", outcomes, context.run.run_id))
        fail_on_errors(cell, outcomes)
        rows = table.to_pylist()
        estimates = {f"{row['metric']}": row["estimate"] for row in rows if row["estimate"] is not None}
        return dg.MaterializeResult(
            data_version=dg.DataVersion(digest([stored.version(), statistics_digest(experiment.statistics)])),
            check_results=check_results(outcomes),
            metadata={
                "dagster/row_count": len(rows),
                "dagster/column_schema": column_schema(METRICS),
                "rates": metrics_table(rows),
                **estimates,
            },
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
        report, path = write_cell_report(opened, cell, context.run.run_id)
        version = detected_cell(opened, cell).page_version(current_baseline(opened))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version),
            metadata={
                "report": dg.MetadataValue.path(str(path)),
                "whole_sweep": dg.MetadataValue.asset(dg.AssetKey([experiment.name, "phase2_report"])),
                "figure": png_figure(to_png(cell_overview(report), 96), f"{cell} beside the baseline"),
                "baseline": "none yet" if report.baseline_metrics is None and not report.is_baseline else "there",
            },
        )

    return condition_reports
