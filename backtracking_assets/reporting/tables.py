"""The result table: one row for every cell of the plan, as plain text for HTML and for a terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from backtracking_assets.measures import MEASURES, Measure
from backtracking_assets.plan import BASELINE_SCALE
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
class TextTable:
    """Columns, and the values of each row as text."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


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


def terminal_tables(table: ResultTable, width: int, title: str | None = None) -> list[Table]:
    """The result table for a terminal of `width` columns.

    Where it is too wide, intervals go below their estimates, and then it continues in further tables, each with the
    subset and scale of its rows: nothing is left out.
    """
    keys, others = [0, 1], list(range(2, len(table.columns)))
    if _terminal_width(table, keys + others, stacked=False) <= width:
        return [_terminal_table(table, keys + others, False, title)]
    groups: list[list[int]] = [[]]
    for number in others:
        if groups[-1] and _terminal_width(table, [*keys, *groups[-1], number], stacked=True) > width:
            groups.append([])
        groups[-1].append(number)
    return [
        _terminal_table(table, keys + group, True, title if place == 0 else "continued")
        for place, group in enumerate(groups)
    ]


def _terminal_table(table: ResultTable, columns: Sequence[int], stacked: bool, title: str | None) -> Table:
    shown = Table(title=None if title is None else escape(title), box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for number in columns:
        shown.add_column(escape(table.columns[number].title), justify=table.columns[number].align)
    for row, following in zip(table.rows, (*table.rows[1:], None), strict=True):
        shown.add_row(
            *(escape(_terminal_value(row.values[number], stacked)) for number in columns),
            style="dim" if row.status == "missing" else None,
            end_section=following is not None and following.layer_subset != row.layer_subset,
        )
    return shown


def _terminal_value(value: str, stacked: bool) -> str:
    return value.replace(" [", "\n[") if stacked else value


def _terminal_width(table: ResultTable, columns: Sequence[int], stacked: bool) -> int:
    """Columns of a terminal that the values take up; titles may wrap at their spaces."""
    total = 0
    for number in columns:
        words = table.columns[number].title.split()
        lines = [line for row in table.rows for line in _terminal_value(row.values[number], stacked).split("\n")]
        total += max(map(len, [*words, *lines])) + 2
    return total


_ColumnAndValue = tuple[Column, Callable[[PlannedCell], str]]


def _columns(index: SweepIndex, study: Study) -> list[_ColumnAndValue]:
    primary = index.primary
    shown = list(dict.fromkeys((primary, MEASURES["strict_rate"], MEASURES["accuracy"])))
    confidence = f"{study.confidence:.0%} interval"
    columns: list[_ColumnAndValue] = [
        (Column("subset", "left"), lambda planned: planned.cell.layer_subset),
        (Column("scale", "right"), lambda planned: f"{planned.cell.scale:g}"),
        (Column("n", "right", "Completions."), lambda planned: _count(planned, study.completions_per_cell)),
    ]
    for measure in shown:
        columns += _measure_columns(index, measure, confidence)
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
    for name in ("truncated_share", "degenerate_share"):
        columns += _measure_columns(index, MEASURES[name], confidence)
    return columns


def _measure_columns(index: SweepIndex, measure: Measure, confidence: str) -> list[_ColumnAndValue]:
    """The measure with its interval; where it is not counted in completions, a column with its denominator as well."""
    of_completions = measure.per == "completion"

    def value(planned: PlannedCell) -> str:
        found = index.value(planned.cell, measure.name)
        text = format_measurement(found, measure)
        if not of_completions or found is None or found.n == planned.n_completions:
            return text
        return f"{text} (n = {found.n:,})"

    def denominator(planned: PlannedCell) -> str:
        found = index.value(planned.cell, measure.name)
        return NOT_MEASURED if found is None else f"{found.n:,}"

    described = Column(measure.label, "right", f"{measure.description} With its {confidence}.")
    if of_completions:
        return [(described, value)]
    counted = Column(f"{measure.per}s", "right", f"The denominator of {measure.label}.")
    return [(described, value), (counted, denominator)]


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
