"""Ranks among random controls, what shared noise buys, and the comparison at equal rate, as the page says them."""

from dataclasses import replace

import numpy as np
import pytest

from backtracking_assets.equal_rate_records import EqualRate, EqualRateOutcome, OutcomeVerdict
from backtracking_assets.layer_subsets import TRIGGER_LOGITS
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import EqualRateSection, SweepReport
from backtracking_assets.reporting.control_ranks import control_rank, control_table, rank_p
from backtracking_assets.reporting.equal_rate import equal_rate_figure, equal_rate_sentence
from backtracking_assets.reporting.findings import find_answer
from backtracking_assets.reporting.measured import index_sweep
from backtracking_assets.reporting.shared_noise import shared_noise_summary, shared_noise_table
from backtracking_assets.reporting.style import to_svg
from backtracking_assets.reporting.sweep_report import render_sweep_report
from backtracking_assets_tests.unit.reporting_samples import (
    ABLATED,
    CONTROL,
    TARGET,
    VALUES,
    comparison_row,
    comparisons_frame,
    metric_row,
    metrics_frame,
    sweep_report,
)


def with_draws(count: int, *, as_low: int = 0, broken: int = 0) -> SweepReport:
    """A sweep with so many draws; the first ones as low as the subset, the last ones with many more wrong steps."""
    values = {cell: value for cell, value in VALUES.items() if cell.layer_subset != CONTROL}
    for draw in range(1, count + 1):
        rate = 0.01 if draw <= as_low else 0.5 + draw / 200
        wrong = 0.3 if draw > count - broken else 0.07
        values[Cell(f"random_{draw}_of_{TARGET}", 0.0)] = (rate, 0.3, 0.85, wrong)
    return sweep_report(values)


@pytest.mark.parametrize(("k", "n", "expected"), [(0, 19, 0.05), (1, 19, 0.1), (0, 99, 0.01), (19, 19, 1.0)])
def test_a_rank_is_a_p_value(k: int, n: int, expected: float) -> None:
    assert rank_p(k, n) == pytest.approx(expected)


def test_too_few_draws_give_no_p_value() -> None:
    assert rank_p(0, 18) is None
    assert "one-sided" not in " ".join(find_answer(with_draws(18)).cautions)
    table = control_table(index_sweep(with_draws(18)))
    assert table is not None
    assert table.rows[0][2:8] == ("18", "0", "–", "18", "0", "–")


def test_the_rank_counts_draws_as_low_and_says_it_with_and_without_those_set_apart() -> None:
    report = with_draws(22, as_low=1, broken=3)
    rank = control_rank(index_sweep(report), ABLATED)
    assert rank is not None
    assert (rank.n_draws, rank.n_as_low, rank.n_intact, rank.n_intact_as_low) == (22, 1, 19, 1)
    assert (rank.p_value, rank.p_intact) == (pytest.approx(2 / 23), pytest.approx(0.1))
    text = " ".join(find_answer(report).cautions)
    assert (
        "1 of 22 draws is as low as attn_no_early: its rank gives a one-sided p = 0.087; "
        "1 of 19 intact draws is as low, p = 0.100." in text
    )
    assert "without random_20_of_attn_no_early, random_21_of_attn_no_early and random_22_of_attn_no_early" in text


def test_intact_draws_that_are_too_few_are_said_to_be() -> None:
    text = " ".join(find_answer(with_draws(19, broken=7)).cautions)
    assert (
        "None of 19 draws is as low as attn_no_early: its rank gives a one-sided p = 0.050; none of 12 intact" in text
    )
    assert "too few for a p (19 are needed)" in text
    assert "without 7 of them, which break arithmetic or coherence" in text


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("off_chain_share", "leaves the problem's chain more often"),
        ("degenerate_share", "degenerates more often"),
        ("no_answer_share", "gives no answer more often"),
    ],
)
def test_a_control_without_coherence_is_set_apart(metric: str, words: str) -> None:
    control, frame, metrics = Cell(CONTROL, 0.0), comparisons_frame(), metrics_frame()
    frame.loc[len(frame)] = comparison_row(control, metric, 0.2)
    metrics.loc[len(metrics)] = metric_row(control, metric, 0.3)
    report = sweep_report(comparisons=frame, metrics=metrics)
    assert index_sweep(report).damage(control) == (words,)
    assert index_sweep(report).damage(ABLATED) == ()
    harmless = frame.copy()
    harmless.loc[len(frame) - 1, "low"] = -0.01
    assert index_sweep(sweep_report(comparisons=harmless, metrics=metrics)).damage(control) == ()
    assert f"{words} than the baseline" in render_sweep_report(report).replace("&#39;", "'")


def test_controls_that_are_set_apart_come_last_in_the_list_of_subsets() -> None:
    page = render_sweep_report(with_draws(3, broken=1))
    section = page[page.index("Layer subsets and random controls") :]
    names = [section.index(f">random_<wbr>{draw}_<wbr>of") for draw in (1, 2, 3)]
    assert names == sorted(names)
    assert section.index("mlp_<wbr>27_<wbr>only") < names[2]


def test_the_variance_ratio_of_every_compared_cell_is_shown() -> None:
    index = index_sweep(sweep_report())
    table = shared_noise_table(index)
    assert table is not None
    assert table.rows[0] == (TARGET, "0", "0.40 [0.30, 0.50]", "0.40 [0.30, 0.50]", "0.40 [0.30, 0.50]")
    assert len(table.rows) == sum(cell.scale != 1 for cell in VALUES)
    assert "0.40 of “Wait after a wrong step” (0.40 to 0.40)" in shared_noise_summary(index)
    assert "What the shared noise buys" in render_sweep_report(sweep_report())
    without = sweep_report(comparisons=comparisons_frame({}))
    assert shared_noise_table(index_sweep(without)) is None
    assert "What the shared noise buys" not in render_sweep_report(without)


def equal_rate(verdict: OutcomeVerdict = "equivalent", scale: float | None = 0.3, outside: float = 0.0) -> EqualRate:
    outcome = EqualRateOutcome("accuracy", 0.74, 0.72, 0.02, -0.01, 0.04, verdict)
    return EqualRate(
        ABLATED,
        "wait_after_wrong_step",
        0.01,
        ((0.0, 0.0), (0.5, 0.4), (1.0, 0.58)),
        scale,
        outside,
        0.05,
        () if scale is None else (outcome,),
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            equal_rate(),
            "has at scale 0.30: the effect is suppression of a word; every outcome is the same within ±0.05",
        ),
        (equal_rate("differs"), "differs from suppression of a word in Accuracy."),
        (equal_rate("undecided"), "undecided; Accuracy could differ by more than ±0.05 or not at all."),
        (equal_rate(scale=None), "its rate of 0.01 lies outside the curve of trigger_logits (0.00 to 0.58)"),
        (
            replace(equal_rate(scale=0.99, outside=0.4), rate=0.57),
            "its rate of 0.57 can hardly be told from the baseline's (in 40% of the resamples it lies beyond it)",
        ),
        (equal_rate(outside=0.4), "In 40% of the resamples the rate lies beyond the curve's end"),
    ],
)
def test_the_comparison_at_equal_rate_in_words(found: EqualRate, expected: str) -> None:
    assert expected in equal_rate_sentence(found)


def with_control() -> SweepReport:
    values = dict(VALUES) | {
        Cell(TRIGGER_LOGITS, 0.0): (0.0, 0.0, 0.70, 0.07),
        Cell(TRIGGER_LOGITS, 0.5): (0.30, 0.2, 0.80, 0.07),
    }
    return sweep_report(values, equal_rate=EqualRateSection((equal_rate(),)))


def test_the_page_shows_the_comparison_at_equal_rate() -> None:
    page = render_sweep_report(with_control())
    assert "More than suppression of a word?" in page
    assert "the effect is suppression of a word; every outcome" in page
    assert '+0.02 <span class="nowrap">[−0.01, +0.04]</span>' in page
    assert "More than suppression" not in render_sweep_report(sweep_report())
    absent = replace(with_control(), equal_rate=EqualRateSection((), "Cells are missing."))
    assert "Not shown: Cells are missing." in render_sweep_report(absent)


def test_the_trigger_control_is_never_the_answer() -> None:
    assert TRIGGER_LOGITS not in index_sweep(with_control()).targeted()
    assert find_answer(with_control()).answer == find_answer(sweep_report()).answer


@pytest.mark.parametrize("narrow", [False, True])
def test_the_figure_draws_the_control_and_every_subset(narrow: bool) -> None:
    figure = equal_rate_figure(with_control(), narrow)
    lines = [line for line in figure.axes[0].lines if np.size(line.get_xdata()) > 1]
    assert len(lines) == 3
    assert np.asarray(lines[-1].get_xdata()).tolist() == [0.0, 0.30, 0.58]
    assert to_svg(figure) == to_svg(equal_rate_figure(with_control(), narrow))


def test_without_a_measured_control_the_figure_says_so() -> None:
    (text,) = equal_rate_figure(sweep_report()).texts
    assert "No cell of trigger_logits" in text.get_text()
