"""Whole-sweep assets: comparisons with the baseline over the plan, and the sweep's report. They run after the cells."""

from collections.abc import Callable

import dagster as dg
import pyarrow as pa
from matplotlib.figure import Figure

from backtracking_assets.analysis.comparisons import compare_cells
from backtracking_assets.assets.contents import cells_digest, sweep_report
from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.pages import refresh_pages, write_sweep_report
from backtracking_assets.assets.presentation import column_schema, comparisons_table, png_figure
from backtracking_assets.assets.stored_cells import current_baseline, current_cells
from backtracking_assets.errors import StorageError
from backtracking_assets.experiment import BASELINE_SCALE, Experiment
from backtracking_assets.records import COMPARISONS, Cell
from backtracking_assets.reporting.contents import SweepReport
from backtracking_assets.reporting.figures import dose_response, subset_bars
from backtracking_assets.reporting.style import to_png
from backtracking_assets.storage.commits import write_comparisons


def sweep_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The whole-sweep assets of an experiment, upstream first."""
    lowest = min(experiment.scales)
    return [
        _comparisons(
            experiment,
            "subset_sweep",
            f"Every subset at scale {lowest:g} against the baseline.",
            lambda cell: cell.scale == lowest,
            subset_bars,
        ),
        _comparisons(
            experiment,
            "scale_sweep",
            "The targeted subsets at every scale against the baseline.",
            lambda cell: cell.layer_subset in experiment.layer_subsets and cell.scale != BASELINE_SCALE,
            dose_response,
        ),
        _phase2_report(experiment),
    ]


def compare_plan(opened: OpenExperiment, run_id: str) -> pa.Table:
    """Compare every planned cell that is current with the baseline, and store the comparisons.

    All of them, whichever slice is shown: Holm's correction is over the plan.

    Raises:
        StorageError: the baseline is not there.
    """
    experiment = opened.experiment
    baseline = current_baseline(opened)
    if baseline is None:
        raise StorageError(
            f"There is nothing to compare with: no cell at scale {BASELINE_SCALE} is there; "
            "materialize the baseline, any subset at scale 1.0, first."
        )
    planned = experiment.planned_cells()
    cells = [cell.rows for cell in current_cells(opened, planned)]
    # Cells that are still missing count in the correction, or it would grow stricter as they come in.
    family = sum(opened.condition(cell).fingerprint != baseline.fingerprint for cell in planned)
    table = compare_cells(
        cells,
        baseline.rows,
        problem_set_digest=opened.problem_set_digest,
        statistics=experiment.statistics,
        run_id=run_id,
        family_size=family,
    )
    write_comparisons(opened.layout, table)
    return table


def _comparisons(
    experiment: Experiment,
    name: str,
    description: str,
    shown: Callable[[Cell], bool],
    figure: Callable[[SweepReport], Figure],
) -> dg.AssetsDefinition:
    @dg.asset(
        key=[experiment.name, name],
        deps=[[experiment.name, "metrics"]],
        group_name=f"{experiment.name}_phase2",
        description=f"{description} Paired by problem and sample, corrected over the plan.",
        kinds={"duckdb"},
        code_version="1",
    )
    @readable_failures
    def comparisons(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        opened = OpenExperiment(experiment)
        table = compare_plan(opened, context.run.run_id)
        rows = [row for row in table.to_pylist() if shown(Cell(row["layer_subset"], row["scale"]))]
        compared = {(row["layer_subset"], row["scale"]) for row in rows}
        planned = [cell for cell in experiment.planned_cells() if shown(cell) and cell.scale != BASELINE_SCALE]
        stored = current_cells(opened, experiment.planned_cells())
        return dg.MaterializeResult(
            data_version=dg.DataVersion(cells_digest(stored)),
            metadata={
                "dagster/row_count": len(rows),
                "dagster/column_schema": column_schema(COMPARISONS),
                "cells_compared": f"{len(compared)} of {len(planned)} planned",
                "comparisons": comparisons_table(rows),
                "figure": png_figure(to_png(figure(sweep_report(opened, context.run.run_id)), 96), description),
            },
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
        done = sum(planned.status == "done" for planned in report.cells)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.cells_digest),
            metadata={
                "cells": f"{done} of {len(report.cells)} planned",
                "cell_pages_written_anew": refreshed,
                "cells_digest": report.cells_digest,
                "continuation_ablation": report.continuation.absent_because or "shown",
                "report": dg.MetadataValue.path(str(path)),
                "figure": png_figure(to_png(subset_bars(report), 96), "Every subset at the lowest scale"),
            },
        )

    return phase2_report
