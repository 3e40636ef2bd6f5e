"""What Dagster shows on the pages of a cell's materializations, computed from what the store holds of the cell."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from backtracking_assets.assets.contents import examples
from backtracking_assets.assets.open_experiment import component_names
from backtracking_assets.assets.presentation import column_schema, examples_md, metrics_table, png_figure
from backtracking_assets.assets.provenance import commit, tokens_per_second
from backtracking_assets.assets.stored_cells import StoredCell
from backtracking_assets.experiment import Experiment
from backtracking_assets.records import COMPLETIONS, DETECTIONS, METRICS
from backtracking_assets.reporting.contents import CellReport
from backtracking_assets.reporting.figures import cell_overview
from backtracking_assets.reporting.style import to_png


def generations_metadata(stored: StoredCell) -> dict[str, Any]:
    """Of `generations`: all but what only the run that made them knows."""
    opened, completions = stored.opened, stored.completions
    condition = opened.condition(stored.cell)
    speed = tokens_per_second(completions)
    return {
        "dagster/row_count": completions.num_rows,
        "dagster/column_schema": column_schema(COMPLETIONS),
        **({} if speed is None else {"tokens_per_second": round(speed, 1)}),
        "mean_tokens": round(sum(completions["n_tokens"].to_pylist()) / max(completions.num_rows, 1), 1),
        "finish_reasons": _counted(completions["finish_reason"]),
        "device": ", ".join(sorted(set(completions["device"].to_pylist()))),
        "fingerprint": stored.fingerprint,
        "components": ", ".join(component_names(opened, stored.cell.layer_subset)),
        "condition": dg.MetadataValue.json(condition.model_dump(mode="json")),
        "generated_by": dg.MetadataValue.dagster_run(completions["run_id"][0].as_py()),
        "database": dg.MetadataValue.path(str(opened.layout.database)),
        "commit": commit(),
    }


def detections_metadata(stored: StoredCell, baseline: StoredCell | None) -> dict[str, Any]:
    """Of `detections`, with examples beside the baseline's."""
    found = stored.detections
    return {
        "dagster/row_count": found.num_rows,
        "dagster/column_schema": column_schema(DETECTIONS),
        "with_strict_trigger": sum(found["has_strict"].to_pylist()),
        "with_relaxed_trigger": sum(found["has_relaxed"].to_pylist()),
        "degenerate": sum(found["degenerate"].to_pylist()),
        "correct": sum(found["correct"].to_pylist()),
        "onset_phrases": _counted(found["onset_phrase"].drop_null()),
        "rules_digest": stored.opened.rules_digest,
        "examples": examples_md(examples(stored, baseline)),
    }


def metrics_metadata(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of `metrics`, from the cell's rows of `records.METRICS`: a table, and each estimate as a number to plot."""
    return {
        "dagster/row_count": len(rows),
        "dagster/column_schema": column_schema(METRICS),
        "rates": metrics_table(map(dict, rows)),
        **{str(row["metric"]): row["estimate"] for row in rows if row["estimate"] is not None},
    }


def report_metadata(experiment: Experiment, report: CellReport, path: Path) -> dict[str, Any]:
    """Of `condition_reports`: where the page stands, and its figure."""
    return {
        "report": dg.MetadataValue.path(str(path)),
        "whole_sweep": dg.MetadataValue.asset(dg.AssetKey([experiment.name, "phase2_report"])),
        "figure": png_figure(to_png(cell_overview(report), 96), f"{report.cell} beside the baseline"),
        "baseline": "none yet" if report.baseline_metrics is None and not report.is_baseline else "there",
    }


def _counted(column: pa.ChunkedArray) -> dg.JsonMetadataValue:
    return dg.MetadataValue.json({row["values"]: row["counts"] for row in column.value_counts().to_pylist()})
