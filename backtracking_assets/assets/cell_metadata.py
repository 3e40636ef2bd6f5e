"""What Dagster shows on the pages of the materializations of cells and prompt variants, computed from the store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from matplotlib.figure import Figure

from backtracking_assets.assets.contents import examples, primary_measure
from backtracking_assets.assets.open_experiment import component_names
from backtracking_assets.assets.presentation import column_schema, examples_md, metrics_table, png_figure
from backtracking_assets.assets.provenance import commit, tokens_per_second
from backtracking_assets.assets.stored_variants import Stored, StoredVariant, metrics_of_variant
from backtracking_assets.experiment import Experiment
from backtracking_assets.records import COMPLETIONS, DETECTIONS, METRICS
from backtracking_assets.reporting.contents import CellReport
from backtracking_assets.reporting.figures import rates_figure
from backtracking_assets.reporting.measured import rates_by_name
from backtracking_assets.reporting.style import to_png
from backtracking_assets.variant_records import VARIANT_METRICS


def generations_metadata(stored: Stored) -> dict[str, Any]:
    """Of `generations` or `variant_generations`: all but what only the run that made them knows."""
    opened, completions = stored.opened, stored.completions
    condition = stored.condition
    speed = tokens_per_second(completions)
    return {
        "dagster/row_count": completions.num_rows,
        "dagster/column_schema": column_schema(COMPLETIONS),
        **({} if speed is None else {"tokens_per_second": round(speed, 1)}),
        "mean_tokens": round(sum(completions["n_tokens"].to_pylist()) / max(completions.num_rows, 1), 1),
        "finish_reasons": _counted(completions["finish_reason"]),
        "device": ", ".join(sorted(set(completions["device"].to_pylist()))),
        "fingerprint": stored.fingerprint,
        **_intervened_on(stored),
        "condition": dg.MetadataValue.json(condition.model_dump(mode="json")),
        "generated_by": dg.MetadataValue.dagster_run(completions["run_id"][0].as_py()),
        "database": dg.MetadataValue.path(str(opened.layout.database)),
        "commit": commit(),
    }


def _intervened_on(stored: Stored) -> dict[str, str]:
    if isinstance(stored, StoredVariant):
        return {}
    return {"components": ", ".join(component_names(stored.opened, stored.cell.layer_subset))}


def detections_metadata(stored: Stored, baseline: Stored | None) -> dict[str, Any]:
    """Of `detections` or `variant_detections`, with examples beside the baseline's or the sweep's variant's."""
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


def variant_metrics_metadata(stored: StoredVariant, reference: StoredVariant | None) -> dict[str, Any]:
    """Of `variant_metrics`: as of `metrics`, with a figure beside the variant that the sweep uses, if that is there."""
    experiment, rows = stored.opened.experiment, metrics_of_variant(stored.opened, stored.variant).to_pylist()
    others = [] if reference is None else metrics_of_variant(stored.opened, reference.variant).to_pylist()
    figure = rates_figure(
        rates_by_name(rows),
        rates_by_name(others),
        primary_measure(experiment),
        str(stored.variant),
        "none" if reference is None else f"{reference.variant.name}, which the sweep uses",
    )
    return {
        **metrics_metadata(rows),
        "dagster/column_schema": column_schema(VARIANT_METRICS),
        "figure": png_figure(to_png(figure, 96), f"Rates of {stored.variant}"),
    }


def report_metadata(experiment: Experiment, report: CellReport, path: Path, overview: Figure) -> dict[str, Any]:
    """Of `condition_reports`: where the page stands, and its first figure, `figures.cell_overview`."""
    return {
        "report": dg.MetadataValue.path(str(path)),
        "whole_sweep": dg.MetadataValue.asset(dg.AssetKey([experiment.name, "phase2_report"])),
        "figure": png_figure(to_png(overview, 96), f"{report.cell} beside the baseline"),
        "baseline": "none yet" if report.baseline_metrics is None and not report.is_baseline else "there",
    }


def _counted(column: pa.ChunkedArray) -> dg.JsonMetadataValue:
    return dg.MetadataValue.json({row["values"]: row["counts"] for row in column.value_counts().to_pylist()})
