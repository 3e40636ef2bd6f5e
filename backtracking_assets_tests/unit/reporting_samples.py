"""Small sweeps and cells for the tests of the reports."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from backtracking_assets.records import COMPARISONS, METRICS, Cell
from backtracking_assets.reporting.contents import (
    CellReport,
    CheckOutcome,
    Completion,
    Event,
    Example,
    PlannedCell,
    Provenance,
    Study,
    SweepReport,
)

STUDY = Study(
    name="organism",
    title="Which layers backtrack?",
    disclaimer="No evidence about a real model.",
    confidence=0.95,
    n_problems=120,
    samples_per_problem=4,
    seeds={"sampling": 42},
    resamples=10_000,
)
PROVENANCE = Provenance(
    run_ids=("run-1",),
    devices=("a processor",),
    versions={"torch": "2.13.0"},
    commit="abc1234",
    command="backtracking sweep",
    generated_from=datetime(2026, 1, 3, 9, 5, tzinfo=UTC),
    generated_until=datetime(2026, 1, 3, 9, 41, tzinfo=UTC),
    tokens_per_second=2310.4,
)
TRIGGERED = Completion("69 + 5 = 84\nWait, 69 + 5 = 74", (Event(12, 16, "strict"),), "correct", "eos", None)
PLAIN = Completion("69 + 5 = 84", (), "wrong", "length", None)

TARGET, OTHER = "attn_no_early", "mlp_27_only"
CONTROL = "random_1_of_attn_no_early"

# Estimates of (wait_after_wrong_step, strict_rate, accuracy, wrong_step_share) by cell.
VALUES: dict[Cell, tuple[float, float, float, float]] = {
    Cell(TARGET, 0.0): (0.01, 0.07, 0.74, 0.07),
    Cell(TARGET, 0.5): (0.23, 0.10, 0.79, 0.07),
    Cell(TARGET, 1.0): (0.58, 0.29, 0.87, 0.07),
    Cell(OTHER, 0.0): (0.55, 0.33, 0.83, 0.08),
    Cell(OTHER, 1.0): (0.58, 0.29, 0.87, 0.07),
    Cell(CONTROL, 0.0): (0.56, 0.30, 0.85, 0.07),
}
MEASURED = ("wait_after_wrong_step", "strict_rate", "accuracy", "wrong_step_share")


def metric_row(cell: Cell, metric: str, estimate: float | None, **changes: Any) -> dict[str, Any]:
    """One row of METRICS, its interval 0.05 to each side."""
    row = dict.fromkeys(METRICS.names, "-") | {
        "layer_subset": cell.layer_subset,
        "scale": cell.scale,
        "metric": metric,
        "estimate": estimate,
        "low": None if estimate is None else max(estimate - 0.05, 0.0),
        "high": None if estimate is None else min(estimate + 0.05, 1.0),
        "n": 231 if metric == "wait_after_wrong_step" else 480,
        "n_problems": 120,
        "method": "Wilson",
    }
    return row | changes


def comparison_row(cell: Cell, metric: str, difference: float | None, **changes: Any) -> dict[str, Any]:
    """One row of COMPARISONS, its interval 0.04 to each side, its p small where the interval excludes zero."""
    clear = difference is not None and abs(difference) > 0.04
    row = dict.fromkeys(COMPARISONS.names, "-") | {
        "layer_subset": cell.layer_subset,
        "scale": cell.scale,
        "metric": metric,
        "difference": difference,
        "low": None if difference is None else difference - 0.04,
        "high": None if difference is None else difference + 0.04,
        "p_value": 0.0001 if clear else 0.4,
        "p_holm": 0.0004 if clear else 1.0,
        "n_pairs": 480,
        "n_problems": 120,
        "method": "sign flips",
        "variance_ratio": 0.4,
        "variance_ratio_low": 0.3,
        "variance_ratio_high": 0.5,
    }
    return row | changes


def metrics_frame(values: Mapping[Cell, Sequence[float | None]] = VALUES, **changes: Any) -> pd.DataFrame:
    rows = [
        metric_row(cell, metric, estimate, **changes)
        for cell, estimates in values.items()
        for metric, estimate in zip(MEASURED, estimates, strict=True)
    ]
    return pd.DataFrame(rows, columns=METRICS.names)


def comparisons_frame(values: Mapping[Cell, Sequence[float | None]] = VALUES) -> pd.DataFrame:
    baseline = VALUES[Cell(TARGET, 1.0)]
    rows = [
        comparison_row(cell, metric, None if estimate is None else estimate - reference)
        for cell, estimates in values.items()
        if cell.scale != 1.0
        for metric, estimate, reference in zip(MEASURED, estimates, baseline, strict=True)
    ]
    return pd.DataFrame(rows, columns=COMPARISONS.names)


def planned_cell(cell: Cell) -> PlannedCell:
    return PlannedCell(
        cell=cell,
        components=("attention.15", "attention.17") if cell.layer_subset == TARGET else ("mlp.27",),
        control_of=TARGET if cell.layer_subset.startswith("random_") else None,
        status="done",
        n_completions=480,
    )


def sweep_report(values: Mapping[Cell, Sequence[float | None]] = VALUES, **changes: Any) -> SweepReport:
    report = SweepReport(
        study=STUDY,
        cells=tuple(map(planned_cell, values)),
        primary_measure="wait_after_wrong_step",
        metrics=metrics_frame(values),
        comparisons=comparisons_frame(values),
        examples=(example(),),
        cells_digest="d" * 64,
        provenance=PROVENANCE,
    )
    return replace(report, **changes)


def without(report: SweepReport, *cells: Cell) -> SweepReport:
    """The sweep as it is while these cells have not been made."""
    return replace(
        report,
        cells=tuple(
            replace(planned, status="missing", n_completions=0) if planned.cell in cells else planned
            for planned in report.cells
        ),
        metrics=_drop(report.metrics, cells),
        comparisons=_drop(report.comparisons, cells),
    )


def example(**changes: Any) -> Example:
    made = Example(
        cell=Cell(TARGET, 0.0),
        problem_id="p17",
        sample_id=2,
        question="69 + 5 =",
        reference_answer="74",
        completion=PLAIN,
        baseline=TRIGGERED,
    )
    return replace(made, **changes)


ABLATED, BASELINE = Cell(TARGET, 0.0), Cell(TARGET, 1.0)


def cell_report(cell: Cell = ABLATED, **changes: Any) -> CellReport:
    is_baseline = cell.scale == 1.0
    report = CellReport(
        study=STUDY,
        cell=cell,
        components=("attention.15", "attention.17"),
        control_of=None,
        is_baseline=is_baseline,
        fingerprint="f" * 64,
        condition={"dtype": "float32", "system": None},
        problem_set_digest="e" * 64,
        version="f" * 64,
        primary_measure="wait_after_wrong_step",
        metrics=metrics_frame({cell: VALUES[cell]}),
        baseline_metrics=None if is_baseline else metrics_frame({Cell(TARGET, 1.0): VALUES[Cell(TARGET, 1.0)]}),
        comparisons=None if is_baseline else comparisons_frame({cell: VALUES[cell]}),
        checks=(
            CheckOutcome("row_count", True, "error", "480 of 480 completions."),
            CheckOutcome("truncation", False, "warning", "Many completions were cut."),
        ),
        examples=(example(),),
        provenance=PROVENANCE,
    )
    return replace(report, **changes)


def _drop(frame: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    kept = [Cell(str(row["layer_subset"]), float(row["scale"])) not in cells for row in frame.to_dict("records")]
    return frame.loc[kept].reset_index(drop=True)
