"""The sweep's answer: said only where the figures carry it."""

from dataclasses import replace

import pytest

from backtracking_assets.records import COMPARISONS, METRICS, Cell
from backtracking_assets.reporting.findings import find_answer, find_limits
from backtracking_assets.reporting.measured import index_sweep, lies_above
from backtracking_assets_tests.unit.reporting_samples import (
    ABLATED,
    BASELINE,
    CONTROL,
    OTHER,
    TARGET,
    VALUES,
    comparisons_frame,
    metric_row,
    metrics_frame,
    planned_cell,
    sweep_report,
    without,
)


def cautions(report) -> str:
    return " ".join(find_answer(report).cautions)


def test_the_answer_names_the_largest_clear_drop_with_its_figures() -> None:
    answer = find_answer(sweep_report()).answer
    assert answer == (
        "Of the 2 targeted subsets measured, attn_no_early at scale 0 lowers “Wait after a wrong step” most: from "
        "0.58 [0.53, 0.63] at the baseline to 0.01 [0.00, 0.06], a paired difference of −0.57 [−0.61, −0.53] "
        "(Holm-corrected p < 0.001)."
    )
    assert "1 random control matched to attn_no_early gave 0.56." in cautions(sweep_report())
    assert "Its accuracy differs by −0.13 [−0.17, −0.09]." in cautions(sweep_report())


def test_a_random_control_is_never_the_answer() -> None:
    values = dict(VALUES) | {Cell(CONTROL, 0.0): (0.0, 0.0, 0.0, 0.9)}
    answer = find_answer(sweep_report(values)).answer
    assert CONTROL not in answer
    assert TARGET in answer


def test_a_drop_that_a_random_control_shares_is_called_unspecific() -> None:
    values = dict(VALUES) | {Cell(CONTROL, 0.0): (0.03, 0.1, 0.8, 0.07)}
    assert "may not be specific to these layers" in cautions(sweep_report(values))
    assert "may not be specific" not in cautions(sweep_report())


@pytest.mark.parametrize("in_plan", [True, False])
def test_without_a_measured_control_the_drop_is_not_called_specific(in_plan: bool) -> None:
    control = Cell(CONTROL, 0.0)
    values = {cell: value for cell, value in VALUES.items() if cell != control}
    report = without(sweep_report(), control) if in_plan else sweep_report(values)
    assert "cannot be called specific" in cautions(report)


def test_a_control_that_makes_more_wrong_steps_is_set_apart() -> None:
    second = Cell("random_2_of_attn_no_early", 0.0)
    values = dict(VALUES) | {second: (0.40, 0.9, 0.1, 0.70)}
    text = cautions(sweep_report(values))
    assert "gave 0.40 to 0.56, or 0.56 without random_2_of_attn_no_early, which makes more wrong steps" in text
    assert index_sweep(sweep_report(values)).errs_more(second)
    assert not index_sweep(sweep_report(values)).errs_more(Cell(CONTROL, 0.0))


def test_the_paired_difference_shows_damage_that_overlapping_intervals_hide() -> None:
    control = Cell(CONTROL, 0.0)
    frame = comparisons_frame()
    of_control = (frame["layer_subset"] == CONTROL) & (frame["metric"] == "wrong_step_share")
    frame.loc[of_control, ["difference", "low", "high"]] = [0.012, 0.0001, 0.024]
    report = sweep_report(comparisons=frame)
    assert index_sweep(report).errs_more(control)
    assert "but make more wrong steps, so they are a poor comparison" in cautions(report)
    frame.loc[of_control, "low"] = -0.0001
    assert not index_sweep(sweep_report(comparisons=frame)).errs_more(control)


def test_without_comparisons_the_intervals_decide() -> None:
    values = dict(VALUES) | {Cell(CONTROL, 0.0): (0.40, 0.9, 0.1, 0.70)}
    nothing_compared = sweep_report(values, comparisons=comparisons_frame({}))
    assert index_sweep(nothing_compared).errs_more(Cell(CONTROL, 0.0))
    assert not index_sweep(nothing_compared).errs_more(ABLATED)


def test_a_subset_that_breaks_the_arithmetic_is_warned_of() -> None:
    values = dict(VALUES) | {ABLATED: (0.01, 0.07, 0.3, 0.60)}
    assert "attn_no_early also makes more wrong steps than the baseline: 0.60" in cautions(sweep_report(values))


@pytest.mark.parametrize(
    ("difference", "expected"), [(-0.02, "No targeted subset clearly lowers"), (0.1, "None of the")]
)
def test_without_a_clear_drop_none_is_claimed(difference: float, expected: str) -> None:
    level = 0.58 + difference
    values = {c: (0.58 if c.scale == 1 else level, *rest) for c, (_, *rest) in VALUES.items()}
    assert find_answer(sweep_report(values)).answer.startswith(expected)


def test_a_drop_without_a_corrected_p_is_not_clear() -> None:
    frame = comparisons_frame().assign(p_holm=None)
    assert find_answer(sweep_report(comparisons=frame)).answer.startswith("No targeted subset clearly lowers")


def test_a_drop_that_too_few_resamples_keep_from_being_clear_is_told_from_one_that_is_small() -> None:
    lowest = 1 / 10_001
    frame = comparisons_frame().assign(p_value=lowest, p_holm=1_800 * lowest)
    assert "after a correction over 1,800 comparisons: set it to at least 36,000." in cautions(
        sweep_report(comparisons=frame)
    )
    unsure = comparisons_frame().assign(p_value=3 * lowest, p_holm=1_800 * lowest)
    assert "statistics.resamples" not in cautions(sweep_report(comparisons=unsure))
    assert "statistics.resamples" not in cautions(sweep_report())


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        ((BASELINE, Cell(OTHER, 1.0)), "No answer yet: the baseline's"),
        ((ABLATED, Cell(OTHER, 0.0)), "No answer yet: no targeted subset at scale 0"),
        (tuple(VALUES), "No answer yet: the baseline's"),
    ],
)
def test_missing_evidence_is_said(absent: tuple[Cell, ...], expected: str) -> None:
    assert find_answer(without(sweep_report(), *absent)).answer.startswith(expected)


def test_the_baseline_of_any_subset_serves_all() -> None:
    assert "from 0.58" in find_answer(without(sweep_report(), BASELINE)).answer


def test_subsets_that_could_not_be_compared_are_counted() -> None:
    report = without(sweep_report(), Cell(OTHER, 0.0))
    assert "1 of the 2 targeted subsets planned at this scale could not be compared." in cautions(report)
    assert find_answer(report).answer.startswith("attn_no_early at scale 0 lowers “Wait after a wrong step”: from")


def test_a_subset_that_is_part_done_is_named() -> None:
    report = sweep_report()
    cells = tuple(
        replace(planned, status="partial", n_completions=240) if planned.cell == ABLATED else planned
        for planned in report.cells
    )
    assert "attn_no_early is only part done: 240 completions so far." in cautions(replace(report, cells=cells))


def test_two_clear_drops_whose_intervals_overlap_have_no_order() -> None:
    values = dict(VALUES) | {Cell(OTHER, 0.0): (0.03, 0.1, 0.8, 0.07)}
    text = cautions(sweep_report(values))
    assert "Also clearly lower: mlp_27_only (−0.55 [−0.59, −0.51])." in text
    assert "The intervals of attn_no_early and mlp_27_only overlap, so their order is open." in text


def test_without_steps_the_strict_rate_leads_and_its_limit_is_said() -> None:
    report = sweep_report(primary_measure=None)
    assert "“Strict rate”" in find_answer(report).answer
    assert "cannot be checked" in cautions(report)
    assert "cannot be checked" not in cautions(sweep_report())


def test_frequent_truncation_at_the_baseline_is_warned_of() -> None:
    frame = metrics_frame()
    for estimate, expected in ((0.04, False), (0.9, True)):
        frame.loc[len(frame)] = metric_row(BASELINE, "truncated_share", estimate)
        assert ("describe cut texts" in cautions(sweep_report(metrics=frame))) == expected
        frame = frame.iloc[:-1]


def test_limits_name_the_worst_cell_and_the_methods() -> None:
    frame = metrics_frame()
    for cell, estimate in ((BASELINE, 0.01), (ABLATED, 0.4)):
        frame.loc[len(frame)] = metric_row(cell, "degenerate_share", estimate)
    limits = find_limits(sweep_report(metrics=frame))
    assert limits[0].startswith("A cell is 480 completions: 120 problems times 4 samples.")
    assert "Degenerate: 0.01 [0.00, 0.06] at the baseline, at most 0.40 [0.35, 0.45] (attn_no_early at 0)." in limits
    assert "Intervals: Wilson." in limits
    assert "Differences from the baseline: sign flips." in limits


def test_empty_frames_give_no_answer_and_no_error() -> None:
    cells = tuple(replace(planned_cell(cell), status="missing", n_completions=0) for cell in VALUES)
    report = sweep_report(
        cells=cells, metrics=METRICS.empty_table().to_pandas(), comparisons=COMPARISONS.empty_table().to_pandas()
    )
    assert find_answer(report).answer.startswith("No answer yet")


def test_an_unknown_primary_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="There is no measure 'strictrate'"):
        find_answer(sweep_report(primary_measure="strictrate"))


def test_intervals_that_touch_are_not_apart() -> None:
    index = index_sweep(sweep_report())
    low, high = index.value(ABLATED, "accuracy"), index.value(BASELINE, "accuracy")
    assert lies_above(high, low)
    assert not lies_above(low, high)
    assert not lies_above(high, high)
    assert not lies_above(None, low)
