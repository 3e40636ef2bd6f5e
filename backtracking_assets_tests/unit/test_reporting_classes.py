"""The sweep's page shows the classes of every subset, and what is known of the rules behind them."""

from dataclasses import replace

import pandas as pd

from backtracking_assets.analysis.golden_set import read_scores
from backtracking_assets.records import METRICS, Cell
from backtracking_assets.reporting.class_figure import class_bars
from backtracking_assets.reporting.classes import class_section, golden_rows, method_sentences
from backtracking_assets.reporting.contents import ClassRules, Event, SweepReport
from backtracking_assets.reporting.measured import Measurement, index_sweep
from backtracking_assets.reporting.sweep_report import render_sweep_report
from backtracking_assets.reporting.text import marked_text
from backtracking_assets_tests.unit.reporting_samples import TARGET, metric_row, sweep_report

HELD_OUT = read_scores()["splits"]["held_out"]
SHARES = {
    "genuine_share": 0.1,
    "silent_share": 0.2,
    "filler_share": 0.3,
    "neither_share": 0.25,
    "degenerate_share": 0.05,
}


def classed(report: SweepReport) -> SweepReport:
    cells = [planned.cell for planned in report.cells]
    rows = [metric_row(cell, name, share) for cell in cells for name, share in SHARES.items()]
    metrics = pd.concat([report.metrics, pd.DataFrame(rows, columns=METRICS.names)], ignore_index=True)
    return replace(report, metrics=metrics)


def test_the_table_has_the_baseline_and_every_subset_at_its_lowest_scale() -> None:
    report = classed(sweep_report())
    rows = class_section(report, index_sweep(report))["rows"]
    assert rows[0][:4] == ["baseline", "0.10 [0.05, 0.15]", "0.20 [0.15, 0.25]", "0.30 [0.25, 0.35]"]
    assert [row[0] for row in rows[1:]] == [f"{TARGET} at 0", "mlp_27_only at 0", "random_1_of_attn_no_early at 0"]


def test_bars_are_stacked_to_one_and_the_rest_was_cut_off() -> None:
    shares = {name: Measurement(share, None, None, 20, 5, "") for name, share in SHARES.items()}
    figure = class_bars([("a cell", shares.get)])
    (axes,) = figure.axes
    widths = [patch.get_width() for patch in axes.patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert [round(width, 6) for width in widths] == [0.1, 0.2, 0.3, 0.25, 0.05, 0.1]


def test_a_row_that_is_not_measured_is_no_bar() -> None:
    (axes,) = class_bars([("a cell", {}.get)]).axes
    assert [text.get_text() for text in axes.texts] == ["not measured"]
    assert not axes.patches


def test_the_page_says_how_well_the_rules_were_measured_on_how_many_passages() -> None:
    rules = ClassRules(exact=False, golden=HELD_OUT)
    page = render_sweep_report(classed(sweep_report(class_rules=rules)))
    n = HELD_OUT["passages"]["n"]
    assert f"measured on {n} synthetic passages" in page
    precision = HELD_OUT["passages"]["classes"]["genuine"]["precision"]
    assert f"{precision[0]:.2f} [{precision[1]:.2f}, {precision[2]:.2f}] of {precision[3]} found" in page
    assert len(golden_rows(HELD_OUT)) == 8


def test_the_page_of_exact_classes_shows_how_the_text_rules_agree() -> None:
    rules = ClassRules(True, None, "There is no such file.", (("genuine", "genuine", 90), ("none", "silent", 3)))
    page = render_sweep_report(classed(sweep_report(class_rules=rules)))
    assert "the same 93 completions of the baseline, give the exact class in 90." in page
    assert "Precision and recall of the text rules are not shown. There is no such file." in page


def test_without_rules_nothing_is_said_of_them() -> None:
    assert method_sentences(None) == []
    assert "Genuine, filler, silent" in render_sweep_report(sweep_report())


def test_a_marked_trigger_says_its_class() -> None:
    marked = marked_text("They wait.", (Event(5, 9, "strict", "not_a_trigger"),))
    assert '<mark class="strict" title="not a trigger">wait</mark>' in marked


def test_cells_that_are_missing_are_not_measured() -> None:
    report = classed(sweep_report())
    assert index_sweep(report).value(Cell("unknown", 0.0), "genuine_share") is None
