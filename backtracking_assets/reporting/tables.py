"""The result table: one row for every cell of the plan, as plain text for HTML and for a terminal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rich.markup import escape
from rich.table import Table

from backtracking_assets.experiment import BASELINE_SCALE
from backtracking_assets.measures import MEASURES, Measure
from backtracking_assets.reporting.contents import CellStatus, PlannedCell, Study, SweepReport
from backtracking_assets.reporting.formats import (
    NOT_MEASURED,
    format_difference,
    format_measurement,
    format_p,
)
from backtracking_assets.reporting.measured import SweepIndex, index_sweep

MISSING = "missing"


@dataclass(frozen=True)
class Column:
    """One column of the result table."""

    title: str
    align: Literal["left", "right"]
    description: str = ""


@dataclass(frozen=True)
class ResultRow:
    """One planned cell: its values as text, one for each column."""

    layer_subset: str
    scale: float
    status: CellStatus
    is_baseline: bool
    control_of: str | None
    values: tuple[str, ...]


@dataclass(frozen=True)
class ResultTable:
    """Columns and rows of the result table."""

    columns: tuple[Column, ...]
    rows: tuple[ResultRow, ...]


def result_table(report: SweepReport) -> ResultTable:
    """The result table of a sweep: rows in the plan's order, missing cells said to be missing.

    Raises:
        ValueError: a frame has two rows of one cell and measure.
    """
    index = index_sweep(report)
    columns = _columns(index, report.study)
    rows = tuple(
        ResultRow(
            layer_subset=planned.cell.layer_subset,
            scale=planned.cell.scale,
            status=planned.status,
            is_baseline=planned.cell.scale == BASELINE_SCALE,
            control_of=planned.control_of,
            values=tuple(value(planned) for _, value in columns),
        )
        for planned in report.cells
    )
    return ResultTable(columns=tuple(column for column, _ in columns), rows=rows)


def terminal_table(table: ResultTable, title: str | None = None) -> Table:
    """The result table for a terminal."""
    shown = Table(title=None if title is None else escape(title), header_style="bold")
    for column in table.columns:
        shown.add_column(escape(column.title), justify=column.align)
    for row, following in zip(table.rows, (*table.rows[1:], None), strict=True):
        shown.add_row(
            *map(escape, row.values),
            style="dim" if row.status == "missing" else None,
            end_section=following is not None and following.layer_subset != row.layer_subset,
        )
    return shown


def _columns(index: SweepIndex, study: Study) -> list[tuple[Column, Callable[[PlannedCell], str]]]:
    primary = index.primary
    shown = list(dict.fromkeys((primary, MEASURES["strict_rate"], MEASURES["accuracy"])))
    confidence = f"{study.confidence:.0%} interval"
    columns: list[tuple[Column, Callable[[PlannedCell], str]]] = [
        (Column("subset", "left"), lambda planned: planned.cell.layer_subset),
        (Column("scale", "right"), lambda planned: f"{planned.cell.scale:g}"),
        (Column("n", "right", "Completions."), lambda planned: _count(planned, study.completions_per_cell)),
    ]
    columns += [_measure_column(index, measure, confidence) for measure in shown]
    columns += [
        (
            Column(
                f"Δ {primary.label}",
                "right",
                f"{primary.label}, this cell minus the baseline, paired by problem, with its {confidence}.",
            ),
            lambda planned: (
                "baseline"
                if planned.cell.scale == BASELINE_SCALE and planned.status != "missing"
                else format_difference(index.comparison(planned.cell, primary.name), primary)
            ),
        ),
        (
            Column("p (Holm)", "right", "p of that difference, corrected over the plan's comparisons."),
            lambda planned: _p_holm(index, planned),
        ),
    ]
    columns += [_measure_column(index, MEASURES[name], confidence) for name in ("truncated_share", "degenerate_share")]
    return columns


def _measure_column(
    index: SweepIndex, measure: Measure, confidence: str
) -> tuple[Column, Callable[[PlannedCell], str]]:
    description = f"{measure.description} With its {confidence}."
    if measure.per != "completion":
        description += f" n is the number of {measure.per}s." if measure.per != "token" else " n counts tokens."

    def value(planned: PlannedCell) -> str:
        found = index.value(planned.cell, measure.name)
        text = format_measurement(found, measure)
        if found is None or (found.n == planned.n_completions and found.estimate is not None):
            return text
        return f"{text} (n = {found.n:,})"

    return Column(measure.label, "right", description), value


def _count(planned: PlannedCell, whole: int) -> str:
    if planned.status == "missing":
        return MISSING
    if planned.status == "partial":
        return f"{planned.n_completions:,} of {whole:,}"
    return f"{planned.n_completions:,}"


def _p_holm(index: SweepIndex, planned: PlannedCell) -> str:
    comparison = index.comparison(planned.cell, index.primary.name)
    if comparison is None or planned.cell.scale == BASELINE_SCALE:
        return NOT_MEASURED
    return format_p(comparison.p_holm)
