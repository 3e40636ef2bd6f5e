"""The slices of the sweep that are shown, and what Dagster shows of whole-sweep assets, computed from the store."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from matplotlib.figure import Figure

from backtracking_assets.assets.contents import sweep_values
from backtracking_assets.assets.continuation_contents import continuation_report
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.presentation import column_schema, comparisons_table, png_figure, table_md
from backtracking_assets.errors import StorageError
from backtracking_assets.experiment import Experiment
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import COMPARISONS, CONTINUATION_SUMMARIES, Cell
from backtracking_assets.reporting.contents import SweepReport
from backtracking_assets.reporting.continuation import continuation_limits, continuation_table
from backtracking_assets.reporting.continuation_figure import continuation_figure
from backtracking_assets.reporting.figures import dose_response, subset_bars
from backtracking_assets.reporting.style import to_png
from backtracking_assets.storage import queries


@dataclass(frozen=True)
class Slice:
    """A part of the sweep's comparisons that one asset shows."""

    description: str
    shows: Callable[[Cell], bool]
    figure: Callable[[SweepReport], Figure]


def slices(experiment: Experiment) -> dict[str, Slice]:
    """The slices by the name of their asset."""
    lowest = min(experiment.scales)
    return {
        "subset_sweep": Slice(
            f"Every subset at scale {lowest:g} against the baseline.", lambda cell: cell.scale == lowest, subset_bars
        ),
        "scale_sweep": Slice(
            "The targeted subsets at every scale against the baseline.",
            lambda cell: experiment.control_of(cell.layer_subset) is None and cell.scale != BASELINE_SCALE,
            dose_response,
        ),
    }


def comparisons_metadata(opened: OpenExperiment, shown: Slice, run_id: str) -> dict[str, Any]:
    """Of the asset that shows a slice: its rows of the stored comparisons, and the figure."""
    rows = [
        row
        for row in queries.comparisons(opened.layout).to_pylist()
        if shown.shows(Cell(row["layer_subset"], row["scale"]))
    ]
    compared = {(row["layer_subset"], row["scale"]) for row in rows}
    planned = [cell for cell in opened.experiment.planned_cells() if shown.shows(cell) and cell.scale != BASELINE_SCALE]
    return {
        "dagster/row_count": len(rows),
        "dagster/column_schema": column_schema(COMPARISONS),
        "cells_compared": f"{len(compared)} of {len(planned)} planned",
        "comparisons": comparisons_table(rows),
        "figure": png_figure(to_png(shown.figure(sweep_values(opened, run_id)), 96), shown.description),
    }


def continuation_metadata(opened: OpenExperiment) -> dict[str, Any]:
    """Of `continuation_ablation`: its figures, what limits them, and where they were measured.

    Raises:
        StorageError: it is not stored, or computed from something else than the experiment file asks for now.
    """
    results = continuation_report(opened).results
    if results is None:
        raise StorageError("The continuation ablation is not there; materialize it first.")
    positions = queries.continuation_positions(opened.layout)
    return {
        "dagster/row_count": positions.num_rows,
        "dagster/column_schema": column_schema(CONTINUATION_SUMMARIES),
        "figures": table_md(continuation_table(results)),
        "figure": png_figure(to_png(continuation_figure(results), 96), "Events and matched positions"),
        "limits": dg.MetadataValue.md("\n".join(f"- {limit}" for limit in continuation_limits(results))),
        "device": ", ".join(sorted(set(positions["device"].to_pylist()))),
    }


def sweep_report_metadata(report: SweepReport, path: Path) -> dict[str, Any]:
    """Of `phase2_report`: where the page stands, what it was made of, and its figure."""
    done = sum(planned.status == "done" for planned in report.cells)
    return {
        "cells": f"{done} of {len(report.cells)} planned",
        "cells_digest": report.cells_digest,
        "continuation_ablation": report.continuation.absent_because or "shown",
        "report": dg.MetadataValue.path(str(path)),
        "figure": png_figure(to_png(subset_bars(report), 96), "Every subset at the lowest scale"),
    }
