"""Figures of a plan of many subsets show a part of them that can be read, and say so."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import SweepReport
from backtracking_assets.reporting.figures import backtracking_against_accuracy, dose_response, subset_bars
from backtracking_assets.reporting.measured import index_sweep
from backtracking_assets.reporting.shown_subsets import MOST_SUBSETS, shown_note, shown_subsets
from backtracking_assets.reporting.sweep_report import render_sweep_report
from backtracking_assets_tests.unit.reporting_samples import sweep_report

N_SUBSETS = 60


def large(n_subsets: int = N_SUBSETS) -> SweepReport:
    values: dict[Cell, Sequence[float | None]] = {}
    for number in range(n_subsets):
        rate = 0.5 - 0.4 * ((7 * number) % n_subsets) / n_subsets
        values[Cell(f"subset_{number:02d}", 0.0)] = (rate, 0.2, 0.8, 0.07)
        values[Cell(f"subset_{number:02d}", 1.0)] = (0.58, 0.29, 0.87, 0.07)
    return sweep_report(values)


def test_all_are_shown_while_they_can_be_read() -> None:
    index = index_sweep(large(MOST_SUBSETS))
    assert (shown_subsets(index), shown_note(index)) == (index.targeted(), "")


def test_of_many_the_lowest_are_shown_in_the_order_of_the_plan() -> None:
    index = index_sweep(large())
    shown = shown_subsets(index)
    estimates = {name: index.measured[Cell(name, 0.0), index.primary.name].estimate for name in index.targeted()}
    assert list(shown) == sorted(sorted(estimates, key=lambda name: estimates[name] or 0.0)[:MOST_SUBSETS])
    assert f"Of {N_SUBSETS} targeted subsets, the {MOST_SUBSETS} that are lowest" in shown_note(index)


def test_what_is_not_measured_comes_last() -> None:
    report = large()
    lost = shown_subsets(index_sweep(report))[0]
    report = replace(report, metrics=report.metrics[report.metrics["layer_subset"] != lost])
    assert lost not in shown_subsets(index_sweep(report))


@pytest.mark.parametrize("draw", [subset_bars, dose_response, backtracking_against_accuracy])
def test_figures_stay_small(draw) -> None:
    few, many = draw(large(MOST_SUBSETS)), draw(large())
    assert many.get_size_inches().tolist() == few.get_size_inches().tolist()


def test_the_page_says_which_part_is_shown_and_lists_all() -> None:
    page = render_sweep_report(large())
    assert page.count(f"Of {N_SUBSETS} targeted subsets") >= 3
    assert all(f"subset_<wbr>{number:02d}" in page for number in range(N_SUBSETS))
