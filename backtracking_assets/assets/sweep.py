"""Whole-sweep assets: comparisons with the baseline over the plan, and the sweep's report. They run after the cells."""

import dagster as dg

from backtracking_assets.assets.comparing import compare_plan
from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.pages import refresh_pages, write_sweep_report
from backtracking_assets.assets.stored_cells import current_cells
from backtracking_assets.assets.sweep_metadata import Slice, comparisons_metadata, slices, sweep_report_metadata
from backtracking_assets.assets.sweep_status import cells_digest
from backtracking_assets.experiment import Experiment


def sweep_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The whole-sweep assets of an experiment, upstream first."""
    shown = [_comparisons(experiment, name, part) for name, part in slices(experiment).items()]
    return [*shown, _phase2_report(experiment)]


def _comparisons(experiment: Experiment, name: str, shown: Slice) -> dg.AssetsDefinition:
    @dg.asset(
        key=[experiment.name, name],
        deps=[[experiment.name, "metrics"]],
        group_name=f"{experiment.name}_phase2",
        description=f"{shown.description} Paired by problem and sample, corrected over the plan.",
        kinds={"duckdb"},
        code_version="1",
    )
    @readable_failures
    def comparisons(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened = OpenExperiment(experiment)
        compare_plan(opened, context.run.run_id)
        stored = current_cells(opened, experiment.planned_cells())
        return dg.MaterializeResult(
            data_version=dg.DataVersion(cells_digest(stored)),
            metadata=comparisons_metadata(opened, shown, context.run.run_id),
        )

    return comparisons


def _phase2_report(experiment: Experiment) -> dg.AssetsDefinition:
    shown = ["subset_sweep", "scale_sweep", "condition_reports"]
    if experiment.continuation is not None:
        shown.append("continuation_ablation")

    @dg.asset(
        key=[experiment.name, "phase2_report"],
        deps=[[experiment.name, name] for name in shown],
        group_name=f"{experiment.name}_phase2",
        description="One HTML page for the whole sweep. Says what is missing where the sweep is partial.",
        kinds={"html"},
        code_version="1",
    )
    @readable_failures
    def phase2_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened = OpenExperiment(experiment)
        refreshed = refresh_pages(opened, context.run.run_id)
        report, path = write_sweep_report(opened, context.run.run_id)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.cells_digest),
            metadata={"cell_pages_written_anew": refreshed, **sweep_report_metadata(report, path)},
        )

    return phase2_report
