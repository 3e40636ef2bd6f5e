"""The result table: one row a planned cell, in the plan's order, and nothing made up."""

from dataclasses import replace
from io import StringIO
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from backtracking_assets.measures import MEASURES
from backtracking_assets.records import Cell
from backtracking_assets.reporting.formats import (
    equals_p,
    format_components,
    format_difference,
    format_measurement,
    format_number,
    format_p,
    join_names,
)
from backtracking_assets.reporting.measured import Comparison, Measurement, measurements
from backtracking_assets.reporting.tables import ResultTable, result_table, terminal_tables
from backtracking_assets_tests.unit.reporting_samples import (
    OTHER,
    TARGET,
    VALUES,
    metrics_frame,
    sweep_report,
    without,
)

SHARE, TOKENS = MEASURES["strict_rate"], MEASURES["mean_tokens"]


def row_values(table: ResultTable, cell: Cell) -> dict[str, str]:
    row = next(row for row in table.rows if (row.layer_subset, row.scale) == (cell.layer_subset, cell.scale))
    return {column.title: value for column, value in zip(table.columns, row.values, strict=True)}


def test_rows_follow_the_plan_and_show_every_figure() -> None:
    table = result_table(sweep_report())
    assert [(row.layer_subset, row.scale) for row in table.rows] == [(c.layer_subset, c.scale) for c in VALUES]
    values = row_values(table, Cell(TARGET, 0.0))
    assert values["n"] == "480"
    assert values["Wait after a wrong step"] == "0.01 [0.00, 0.06]"
    assert values["wrong steps"] == "231"
    assert values["Δ Wait after a wrong step"] == "−0.57 [−0.61, −0.53]"
    assert values["p (Holm)"] == "<0.001"
    assert values["Truncated"] == "–"  # no row of that measure is in the frame


def test_the_baseline_is_compared_with_nothing() -> None:
    values = row_values(result_table(sweep_report()), Cell(TARGET, 1.0))
    assert values["Δ Wait after a wrong step"] == "baseline"
    assert values["p (Holm)"] == "–"


def test_a_missing_cell_says_so_and_shows_no_stale_figure() -> None:
    report = sweep_report()
    stale = replace(without(report, Cell(OTHER, 0.0)), metrics=report.metrics, comparisons=report.comparisons)
    values = row_values(result_table(stale), Cell(OTHER, 0.0))
    assert values.pop("n") == "missing"
    assert set(values.values()) == {OTHER, "0", "–"}


def test_a_partial_cell_shows_how_far_it_is() -> None:
    report = sweep_report()
    cells = tuple(
        replace(planned, status="partial", n_completions=240) if planned.cell == Cell(TARGET, 0.5) else planned
        for planned in report.cells
    )
    values = row_values(result_table(replace(report, cells=cells)), Cell(TARGET, 0.5))
    assert values["n"] == "240 of 480"
    assert values["Accuracy"].endswith("(n = 480)")  # the frame's denominator is not the cell's


def test_without_a_primary_measure_the_strict_rate_leads_and_stands_once() -> None:
    titles = [column.title for column in result_table(sweep_report(primary_measure=None)).columns]
    assert titles.count("Strict rate") == 1
    assert "Δ Strict rate" in titles
    assert "Wait after a wrong step" not in titles


def test_an_empty_estimate_is_a_dash_with_its_denominator() -> None:
    values = dict(VALUES) | {Cell(OTHER, 0.0): (None, 0.3, 0.8, 0.0)}
    frame = metrics_frame(values)
    empty = (frame["layer_subset"] == OTHER) & (frame["scale"] == 0) & (frame["metric"] == "wait_after_wrong_step")
    frame.loc[empty, "n"] = 0
    shown = row_values(result_table(sweep_report(metrics=frame)), Cell(OTHER, 0.0))
    assert shown["Wait after a wrong step"] == "–"
    assert shown["wrong steps"] == "0"


def test_two_rows_of_one_measure_are_refused() -> None:
    frame = metrics_frame()
    with pytest.raises(ValueError, match=r"attn_no_early at 0 has two rows of wait_after_wrong_step"):
        measurements(pd.concat([frame, frame]))


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_every_form_of_a_missing_number_is_none(missing: Any) -> None:
    frame = metrics_frame({Cell(TARGET, 0.0): VALUES[Cell(TARGET, 0.0)]}).astype({"estimate": object})
    frame["estimate"] = missing
    assert {value.estimate for value in measurements(frame).values()} == {None}


@pytest.mark.parametrize("width", [60, 100, 140, 220])
def test_the_terminal_tables_fit_and_leave_nothing_out(width: int) -> None:
    table = result_table(sweep_report())
    console = Console(width=width, record=True, file=StringIO())
    parts = terminal_tables(table, width, title="Results [of the sweep]")
    for part in parts:
        console.print(part)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "Results [of the sweep]" in text
    assert (len(parts) == 1) == (width >= 140)
    assert [column.title for column in table.columns] == list(
        dict.fromkeys(str(column.header) for part in parts for column in part.columns)
    )
    assert "0.01" in text


def test_numbers_are_written_as_people_read_them() -> None:
    assert format_number(-0.001, SHARE, signed=True) == "0.00"
    assert format_number(0.125, SHARE, signed=True) == "+0.12"
    assert format_number(51.26, TOKENS) == "51.3"
    assert format_measurement(Measurement(0.42, None, None, 3, 3, ""), SHARE) == "0.42"
    assert format_difference(Comparison(-0.5, -0.6, -0.4, 0.1, 0.1, 3, 3, ""), SHARE) == "−0.50 [−0.60, −0.40]"
    assert (format_p(0.0009), format_p(0.0444), format_p(None)) == ("<0.001", "0.044", "–")
    assert (equals_p(0.0009), equals_p(0.0444)) == ("p < 0.001", "p = 0.044")
    assert format_components(("attention.15", "mlp.27", "attention.17")) == "attention 15, 17 · mlp 27"
    assert [join_names("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
