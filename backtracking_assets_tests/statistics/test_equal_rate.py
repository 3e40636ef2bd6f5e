"""The comparison at equal rate on made-up cells whose truth is known."""

from dataclasses import replace

import pyarrow as pa
import pytest

from backtracking_assets.analysis.counts import CellRows
from backtracking_assets.analysis.detection import detect
from backtracking_assets.analysis.equal_rate import compare_at_equal_rate
from backtracking_assets.equal_rate_records import EqualRate
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.layer_subsets import TRIGGER_LOGITS
from backtracking_assets.models.organism.chains import ChainSettings
from backtracking_assets.records import Cell
from backtracking_assets_tests.unit.analysis_samples import HABITS, RULES, sample_completions, sample_problems

N_PROBLEMS = 60
STATISTICS = Statistics(resamples=400, equivalence_margin=0.1)
SCALES = {0.0: 0.0, 0.25: 0.2, 0.5: 0.4}
"""Share of wrong steps that are followed by a trigger, by scale of the control; 0.7 at the baseline."""


def rows(name: str, scale: float, habits: ChainSettings, *, n_problems: int = N_PROBLEMS) -> CellRows:
    completions = sample_completions(n_problems, seed=1, fingerprint=f"{name} {scale}", habits=habits)
    return CellRows(Cell(name, scale), completions, detect(completions, sample_problems(n_problems), RULES, run_id="r"))


@pytest.fixture(scope="module")
def baseline() -> CellRows:
    return rows("baseline", 1.0, HABITS)


@pytest.fixture(scope="module")
def control() -> list[CellRows]:
    return [
        rows(TRIGGER_LOGITS, scale, replace(HABITS, trigger_after_wrong=rate, trigger_after_right=rate / 14))
        for scale, rate in SCALES.items()
    ]


def compared(cell: CellRows, control: list[CellRows], baseline: CellRows) -> EqualRate:
    (found,) = compare_at_equal_rate(
        [cell], control, baseline, rate_measure="wait_after_wrong_step", statistics=STATISTICS
    )
    return found


def test_a_subset_that_only_says_the_word_less_often_is_equivalent(control: list[CellRows], baseline: CellRows) -> None:
    cell = rows("subset", 0.0, replace(HABITS, trigger_after_wrong=0.3, trigger_after_right=0.02))
    found = compared(cell, control, baseline)
    assert found.verdict == "equivalent"
    assert found.scale is not None
    assert 0.25 < found.scale < 0.5
    assert [outcome.measure for outcome in found.outcomes] == ["accuracy", "corrected_share", "wrong_step_share"]
    for outcome in found.outcomes:
        assert outcome.low < outcome.difference < outcome.high
        assert outcome.difference == pytest.approx(outcome.subset - outcome.control)


def test_a_subset_that_also_breaks_the_arithmetic_differs(control: list[CellRows], baseline: CellRows) -> None:
    cell = rows("subset", 0.0, replace(HABITS, trigger_after_wrong=0.3, wrong_step=0.6))
    found = compared(cell, control, baseline)
    assert found.verdict == "differs"
    verdicts = {outcome.measure: outcome.verdict for outcome in found.outcomes}
    assert verdicts["wrong_step_share"] == "differs"
    assert next(o for o in found.outcomes if o.measure == "accuracy").difference < -0.1


def test_a_margin_too_narrow_for_the_data_is_undecided(control: list[CellRows], baseline: CellRows) -> None:
    cell = rows("subset", 0.0, replace(HABITS, trigger_after_wrong=0.3, trigger_after_right=0.02))
    (found,) = compare_at_equal_rate(
        [cell],
        control,
        baseline,
        rate_measure="wait_after_wrong_step",
        statistics=Statistics(resamples=400, equivalence_margin=0.001),
    )
    assert found.verdict == "undecided"


def test_a_point_of_the_curve_is_compared_with_itself(control: list[CellRows], baseline: CellRows) -> None:
    found = compared(replace(control[1], cell=Cell("same", 0.0)), control, baseline)
    assert found.scale == pytest.approx(0.25)
    assert all(outcome.difference == pytest.approx(0) for outcome in found.outcomes)
    assert all((outcome.low, outcome.high) == pytest.approx((0, 0)) for outcome in found.outcomes)


def test_a_rate_outside_the_curve_is_not_compared(control: list[CellRows], baseline: CellRows) -> None:
    found = compared(rows("more", 0.0, replace(HABITS, trigger_after_wrong=1.0)), control, baseline)
    assert (found.verdict, found.scale, found.outcomes) == ("outside", None, ())
    assert found.outside_share > 0.9


def test_rows_go_by_key_and_not_by_position(control: list[CellRows], baseline: CellRows) -> None:
    cell = rows("subset", 0.0, replace(HABITS, trigger_after_wrong=0.3))
    backwards = pa.array(range(cell.completions.num_rows - 1, -1, -1))
    turned = replace(cell, completions=cell.completions.take(backwards), detections=cell.detections.take(backwards))
    assert compared(turned, control[::-1], baseline) == compared(cell, control, baseline)


def test_what_cannot_be_compared_is_refused(control: list[CellRows], baseline: CellRows) -> None:
    with pytest.raises(BacktrackingError, match="different problems"):
        compared(rows("few", 0.0, HABITS, n_problems=10), control, baseline)
    with pytest.raises(BacktrackingError, match="no cell below scale 1"):
        compared(baseline, [baseline], baseline)
    flawless = replace(HABITS, wrong_step=0.0, wrong_redo=0.0)
    right = [rows(name, 0.0, flawless) for name in ("subset", TRIGGER_LOGITS)]
    with pytest.raises(BacktrackingError, match="nothing to be counted"):
        compared(right[0], right[1:], rows("baseline", 1.0, flawless))
