import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backtracking_assets.analysis.counts import CellRows, counts, joined
from backtracking_assets.analysis.detection import STEP_COLUMNS, detect
from backtracking_assets.analysis.metrics import cell_metrics, derangement
from backtracking_assets.analysis.statistics import share
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Detection, Statistics
from backtracking_assets.measures import MEASURES
from backtracking_assets.records import METRICS, Cell, Problem
from backtracking_assets_tests.unit.analysis_samples import (
    RULES,
    completion_row,
    completions_table,
    sample_completions,
    sample_problems,
)

CELL = Cell("attn_15_only", 0.5)
STATISTICS = Statistics(resamples=500)


def metrics(completions: pa.Table, problems: dict[str, Problem], rules: Detection = RULES) -> dict[str, dict]:
    detections = detect(completions, problems, rules, run_id="r")
    table = cell_metrics(
        completions,
        detections,
        problems,
        cell=CELL,
        problem_set_digest="set",
        statistics=STATISTICS,
        run_id="r",
    )
    assert table.schema == METRICS
    rows = table.to_pylist()
    assert [row["metric"] for row in rows] == [name for name in MEASURES if name in {row["metric"] for row in rows}]
    return {row["metric"]: row for row in rows}


def test_every_measure_is_taken_with_its_denominator() -> None:
    completions, problems = sample_completions(20), sample_problems(20)
    rows = metrics(completions, problems)
    assert list(rows) == list(MEASURES)
    detections = detect(completions, problems, RULES, run_id="r").to_pandas()
    n_tokens = completions.column("n_tokens").to_numpy()
    expected = {
        "wait_after_wrong_step": (
            detections.n_waits_after_wrong_step.sum() / detections.n_wrong_steps.sum(),
            detections.n_wrong_steps.sum(),
        ),
        "wait_after_right_step": (
            detections.n_waits_after_right_step.sum() / (detections.n_steps - detections.n_wrong_steps).sum(),
            (detections.n_steps - detections.n_wrong_steps).sum(),
        ),
        "wrong_step_share": (detections.n_wrong_steps.sum() / detections.n_steps.sum(), detections.n_steps.sum()),
        "strict_rate": (detections.has_strict.mean(), 80),
        "strict_per_1000_tokens": (1000 * detections.n_strict.sum() / n_tokens.sum(), n_tokens.sum()),
        "accuracy": (detections.correct.mean(), 80),
        "accuracy_of_answered": (
            detections.correct.sum() / (detections.verdict != "no_answer").sum(),
            (detections.verdict != "no_answer").sum(),
        ),
        "mean_tokens": (n_tokens.mean(), 80),
        "truncated_share": (0, 80),
    }
    for name, (estimate, n) in expected.items():
        assert rows[name]["estimate"] == pytest.approx(estimate), name
        assert rows[name]["n"] == n, name
        assert rows[name]["low"] <= estimate <= rows[name]["high"], name
    assert 0.5 < rows["wait_after_wrong_step"]["estimate"] < 0.9
    assert rows["accuracy"]["low"] > rows["accuracy_shuffled"]["high"]
    assert rows["accuracy"]["fingerprint"] == "baseline"
    assert (rows["accuracy"]["layer_subset"], rows["accuracy"]["scale"]) == ("attn_15_only", 0.5)


def test_every_ratio_has_its_columns() -> None:
    completions, problems = sample_completions(3), sample_problems(3)
    frame = joined(CellRows(CELL, completions, detect(completions, problems, RULES, run_id="r")))
    for measure in MEASURES.values():
        if measure.name not in ("accuracy_shuffled", "median_first_event_token"):
            numerators, denominators = counts(measure, frame)
            assert len(numerators) == len(denominators) == 12
            assert np.isfinite([numerators, denominators]).all()


def test_measures_of_steps_are_absent_where_no_steps_were_read() -> None:
    rules = RULES.model_copy(update={"steps": None})
    rows = metrics(sample_completions(4), sample_problems(4), rules)
    assert list(rows) == [name for name, measure in MEASURES.items() if not measure.needs_steps]


def test_positions_of_events_are_censored_where_there_is_none() -> None:
    problems = sample_problems(3)
    rows = [completion_row(name, 0, ["x"] * 4 + ["\n", "Wait"]) for name in list(problems)[:2]]
    rows.append(completion_row("p002", 0, ["x"] * 3, finish_reason="length"))
    rows.append(completion_row("p002", 1, [], finish_reason="non_finite"))
    result = metrics(completions_table(rows), problems)
    # At token 6 two of the two that are still running say it; the two shorter ones are censored before.
    assert result["median_first_event_token"]["estimate"] == 6
    assert result["truncated_share"]["estimate"] == 0.25
    assert result["non_finite_share"]["estimate"] == 0.25
    assert result["no_answer_share"]["estimate"] == 1
    assert result["wait_after_wrong_step"]["estimate"] is None
    assert result["wait_after_wrong_step"]["n"] == 0


def test_answers_joined_to_the_wrong_problems_show() -> None:
    problems = sample_problems(40)
    names = list(problems)
    shifted = {
        name: Problem(name, problems[name].question, problems[names[number - 1]].answer)
        for number, name in enumerate(names)
    }
    rows = metrics(sample_completions(40), shifted)
    assert rows["accuracy"]["estimate"] < 0.1
    assert rows["accuracy"]["low"] < rows["accuracy_shuffled"]["high"]


def test_shuffled_answers_of_a_single_problem_measure_nothing() -> None:
    rows = metrics(sample_completions(1), sample_problems(1))
    assert (rows["accuracy_shuffled"]["estimate"], rows["accuracy_shuffled"]["n"]) == (None, 0)


@given(st.sets(st.text(max_size=4), min_size=2, max_size=30), st.integers(0, 2**32))
def test_a_derangement_moves_every_name(names: set[str], seed: int) -> None:
    drawn = derangement(list(names), seed)
    assert set(drawn) == set(drawn.values()) == names
    assert all(name != other for name, other in drawn.items())
    assert drawn == derangement(sorted(names, reverse=True), seed)


def test_the_same_rows_in_another_order_give_the_same_table() -> None:
    completions, problems = sample_completions(10), sample_problems(10)
    detections = detect(completions, problems, RULES, run_id="r")

    def measured(completions: pa.Table, detections: pa.Table) -> pa.Table:
        return cell_metrics(
            completions, detections, problems, cell=CELL, problem_set_digest="s", statistics=STATISTICS, run_id="r"
        )

    backwards = pa.array(range(39, -1, -1))
    assert measured(completions, detections).equals(measured(completions.take(backwards), detections))
    assert measured(completions, detections).equals(measured(completions, detections.take(backwards)))


def test_rows_that_do_not_belong_together_are_refused() -> None:
    completions, problems = sample_completions(5), sample_problems(5)
    detections = detect(completions, problems, RULES, run_id="r")

    def refused(completions: pa.Table, detections: pa.Table, match: str) -> None:
        with pytest.raises(BacktrackingError, match=match):
            joined(CellRows(CELL, completions, detections))

    refused(completions.slice(1), detections, "1 of its completions and detections .* sample 0 of problem 'p000'")
    refused(completions, detections.slice(0, 17), "3 of its")
    refused(
        pa.concat_tables([completions, completions.slice(3, 1)]), detections, "completions hold sample 3 of problem"
    )
    refused(completions, pa.concat_tables([detections, detections.slice(4, 1)]), "detections hold sample 0 of problem")
    refused(completions.slice(0, 0), detections.slice(0, 0), "no completions")
    other = sample_completions(5, fingerprint="other")
    both = pa.concat_tables([completions, other])
    refused(both, detect(both, problems, RULES, run_id="r"), "more than one fingerprint")
    half = RULES.model_copy(update={"degenerate_repeats": 9})
    mixed = pa.concat_tables([detections.slice(0, 8), detect(completions.slice(8), problems, half, run_id="r")])
    refused(completions, mixed, "more than one rules_digest")
    position = detections.schema.get_field_index("n_steps")
    torn = pa.array([None] + [3] * 19, pa.int32())
    refused(completions, detections.set_column(position, "n_steps", torn), "some of its rows only")


def test_an_unknown_problem_is_named() -> None:
    completions, problems = sample_completions(3), sample_problems(3)
    detections = detect(completions, problems, RULES, run_id="r")
    del problems["p001"]
    with pytest.raises(BacktrackingError, match="'p001'"):
        cell_metrics(
            completions, detections, problems, cell=CELL, problem_set_digest="s", statistics=STATISTICS, run_id="r"
        )


def test_waits_after_steps_use_the_steps_that_are_followed() -> None:
    problems = sample_problems(1)
    tokens = ["1", " + 1", " = ", "3", "\n", "Wait", ", ", "1", " + 1", " = ", "3"]
    rows = metrics(completions_table([completion_row("p000", 0, tokens, finish_reason="length")]), problems)
    assert (rows["wrong_step_share"]["estimate"], rows["wrong_step_share"]["n"]) == (1, 2)
    assert (rows["wait_after_wrong_step"]["estimate"], rows["wait_after_wrong_step"]["n"]) == (1, 1)
    assert rows["wait_after_wrong_step"]["low"] == share([1], [1], ["a"], confidence=STATISTICS.confidence).low
    assert set(STEP_COLUMNS) >= {"n_wrong_steps_followed", "n_right_steps_followed"}
