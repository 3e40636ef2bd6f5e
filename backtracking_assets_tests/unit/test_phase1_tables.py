"""Prompt variants and conditions side by side: joined by keys, corrected over their own family, missing ones said."""

import pytest

from backtracking_assets.analysis.comparisons import compare_cells
from backtracking_assets.analysis.condition_comparison import ConditionRows, compare_conditions
from backtracking_assets.analysis.formatting import compare_variants
from backtracking_assets.analysis.metrics import cell_metrics
from backtracking_assets.analysis.statistics import holm
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.phase1_records import CONDITION_COMPARISON, FORMATTING
from backtracking_assets.records import Cell
from backtracking_assets_tests.unit.phase1_samples import COUNTED, NONE, PROBLEMS, WRONG, cell_rows

STATISTICS = Statistics(resamples=300)
MUTED = [(p, s, False, v) for p, s, _, v in COUNTED]
BROKEN = [(p, s, t, WRONG if s else NONE) for p, s, t, _ in COUNTED]
BASELINE, TARGET, RANDOM = Cell("attn_1", 1.0), Cell("attn_1", 0.0), Cell("random_1_of_attn_1", 0.0)


def formatting(variants: dict, reference: str = "plain") -> list[dict]:
    table = compare_variants(
        variants,
        reference,
        PROBLEMS,
        problem_set_digest="set",
        statistics=STATISTICS,
        inputs_digest="inputs",
        run_id="r",
    )
    assert table.schema == FORMATTING
    return table.to_pylist()


def test_variants_have_the_rates_that_are_counted_by_hand() -> None:
    rows = formatting(
        {
            "plain": cell_rows(fingerprint="a"),
            "muted": cell_rows(MUTED, fingerprint="b", shuffled=True),
            "broken": cell_rows(BROKEN, fingerprint="c"),
        }
    )
    found = {(row["variant"], row["metric"]): row for row in rows}
    assert found["plain", "strict_rate"]["estimate"] == pytest.approx(4 / 9)
    assert found["plain", "strict_rate"]["difference"] is None
    assert found["muted", "strict_rate"]["difference"] == pytest.approx(-4 / 9)
    assert found["muted", "accuracy"]["difference"] == 0
    assert found["broken", "accuracy"]["difference"] == pytest.approx(-5 / 9)
    assert (found["broken", "accuracy"]["n"], found["broken", "accuracy_of_answered"]["n"]) == (9, 6)
    assert found["plain", "accuracy_of_answered"]["estimate"] == pytest.approx(5 / 7)
    assert found["broken", "strict_rate"]["fingerprint"] == "c"
    family = [found[name, "accuracy"] for name in ("muted", "broken")]
    assert [row["p_holm"] for row in family] == holm([row["p_value"] for row in family])
    assert {row["n_comparisons"] for row in rows} == {2}


def test_variants_that_are_all_the_same_measure_nothing() -> None:
    with pytest.raises(BacktrackingError, match="same in all of plain, other"):
        formatting({"plain": cell_rows(fingerprint="a"), "other": cell_rows(fingerprint="b")})


def test_a_variant_of_other_problems_is_refused() -> None:
    with pytest.raises(BacktrackingError, match="prompt variant other and the baseline differ in 1 completions"):
        formatting({"plain": cell_rows(fingerprint="a"), "other": cell_rows(COUNTED[1:], fingerprint="b")})


def condition(cell: Cell, role: str, given: list | tuple) -> ConditionRows:
    rows, baseline = (
        cell_rows(given, fingerprint=str(cell), cell=cell),
        cell_rows(fingerprint=str(BASELINE), cell=BASELINE),
    )
    shared = {"problem_set_digest": "set", "statistics": STATISTICS, "run_id": "r"}
    metrics = cell_metrics(rows.completions, rows.detections, PROBLEMS, cell=cell, **shared)
    comparisons = compare_cells([rows], baseline, **shared)
    return ConditionRows(cell, role, metrics.to_pylist(), comparisons.to_pylist())  # type: ignore[arg-type]


def test_conditions_stand_side_by_side_with_what_is_missing_counted() -> None:
    conditions = [
        condition(BASELINE, "baseline", COUNTED),
        condition(TARGET, "targeted", MUTED),
        condition(RANDOM, "random", BROKEN),
    ]
    table = compare_conditions(conditions, n_planned=4, inputs_digest="inputs", run_id="r2")
    assert table.schema == CONDITION_COMPARISON
    found = {(row["layer_subset"], row["scale"], row["metric"]): row for row in table.to_pylist()}
    strict = found["attn_1", 0.0, "strict_rate"]
    assert (strict["role"], strict["estimate"], strict["difference"]) == ("targeted", 0, pytest.approx(-4 / 9))
    assert found["random_1_of_attn_1", 0.0, "accuracy"]["difference"] == pytest.approx(-5 / 9)
    assert found["attn_1", 1.0, "accuracy"]["difference"] is None
    # Two of the four that are planned are missing: each counts as p = 1.
    family = [found[name, 0.0, "accuracy"] for name in ("attn_1", "random_1_of_attn_1")]
    assert [row["p_holm"] for row in family] == holm([*(row["p_value"] for row in family), 1.0, 1.0])[:2]
    assert {row["run_id"] for row in table.to_pylist()} == {"r2"}


def test_conditions_need_one_baseline_and_rates() -> None:
    target = condition(TARGET, "targeted", MUTED)
    with pytest.raises(BacktrackingError, match="one baseline; 0 were given"):
        compare_conditions([target], n_planned=1, inputs_digest="i", run_id="r")
    base = condition(BASELINE, "baseline", COUNTED)
    with pytest.raises(BacktrackingError, match="attn_1 at 0 has no rates"):
        compare_conditions(
            [base, ConditionRows(TARGET, "targeted", [], [])], n_planned=1, inputs_digest="i", run_id="r"
        )
    other = ConditionRows(
        TARGET, "targeted", target.metrics, [{**row, "baseline_fingerprint": "x"} for row in target.comparisons]
    )
    with pytest.raises(BacktrackingError, match="another baseline"):
        compare_conditions([base, other], n_planned=1, inputs_digest="i", run_id="r")
    twice = ConditionRows(TARGET, "targeted", [*target.metrics, target.metrics[0]], target.comparisons)
    with pytest.raises(BacktrackingError, match="two rows of"):
        compare_conditions([base, twice], n_planned=1, inputs_digest="i", run_id="r")


def test_conditions_that_are_all_the_same_measure_nothing() -> None:
    base, same = condition(BASELINE, "baseline", COUNTED), condition(TARGET, "targeted", COUNTED)
    with pytest.raises(BacktrackingError, match="Every measure is the same"):
        compare_conditions([base, same], n_planned=1, inputs_digest="i", run_id="r")
