import time
from dataclasses import replace

import pyarrow as pa
import pytest

from backtracking_assets.analysis.comparisons import compare_cells
from backtracking_assets.analysis.counts import CellRows
from backtracking_assets.analysis.detection import detect
from backtracking_assets.analysis.statistics import holm
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Detection, Statistics
from backtracking_assets.measures import MEASURES
from backtracking_assets.records import COMPARISONS, Cell
from backtracking_assets_tests.unit.analysis_samples import HABITS, RULES, sample_completions, sample_problems

N_PROBLEMS = 30
MUTE = replace(HABITS, trigger_after_wrong=0.05)
COMPARED = [name for name, measure in MEASURES.items() if measure.compared]


def cell_rows(
    name: str, *, seed: int, mute: bool = False, rules: Detection = RULES, n_problems: int = N_PROBLEMS
) -> CellRows:
    completions = sample_completions(
        n_problems, seed=seed, fingerprint=f"{name} {seed}", habits=MUTE if mute else HABITS
    )
    return CellRows(Cell(name, 0.0), completions, detect(completions, sample_problems(n_problems), rules, run_id="r"))


def compared(cells: list[CellRows], baseline: CellRows, resamples: int = 1_000) -> pa.Table:
    table = compare_cells(
        cells, baseline, problem_set_digest="set", statistics=Statistics(resamples=resamples), run_id="r"
    )
    assert table.schema == COMPARISONS
    return table


def test_a_real_difference_is_found_and_an_absent_one_is_not() -> None:
    baseline = cell_rows("baseline", seed=0)
    table = compared([cell_rows("muted", seed=1, mute=True), cell_rows("same", seed=2)], baseline)
    rows = {(row["layer_subset"], row["metric"]): row for row in table.to_pylist()}
    assert list(rows) == [(name, metric) for name in ("muted", "same") for metric in COMPARED]
    muted, same = rows["muted", "wait_after_wrong_step"], rows["same", "wait_after_wrong_step"]
    assert muted["p_holm"] < 0.01
    assert muted["low"] < muted["difference"] < muted["high"] < -0.3
    assert same["low"] < 0 < same["high"]
    assert same["p_holm"] > 0.05
    assert muted["n_pairs"] == 4 * N_PROBLEMS
    assert (muted["fingerprint"], muted["baseline_fingerprint"]) == ("muted 1", "baseline 0")
    truncated = rows["muted", "truncated_share"]
    assert (truncated["difference"], truncated["p_value"]) == (0, 1)


def test_holm_goes_over_the_rows_of_one_measure() -> None:
    baseline = cell_rows("baseline", seed=0)
    table = compared([cell_rows(f"c{seed}", seed=seed, mute=seed == 1) for seed in (1, 2, 3)], baseline).to_pandas()
    for _, family in table.groupby("metric"):
        assert family["p_holm"].tolist() == holm(family["p_value"].tolist())


def test_cells_of_the_baselines_fingerprint_are_left_out() -> None:
    baseline = cell_rows("baseline", seed=0)
    again = replace(baseline, cell=Cell("attn", 1.0))
    table = compared([again, cell_rows("other", seed=1)], baseline)
    assert set(table.column("layer_subset").to_pylist()) == {"other"}
    assert compared([again], baseline).num_rows == 0


def test_an_identical_cell_of_another_fingerprint_has_no_difference() -> None:
    baseline = cell_rows("baseline", seed=0)

    def renamed(table: pa.Table) -> pa.Table:
        return table.set_column(0, table.schema.field(0), pa.array(["other"] * table.num_rows))

    same = CellRows(Cell("same", 0.5), renamed(baseline.completions), renamed(baseline.detections))
    for row in compared([same], baseline).to_pylist():
        assert (row["difference"], row["p_value"], row["p_holm"]) == (0, 1, 1), row["metric"]


def test_pairs_go_by_key_and_not_by_position() -> None:
    baseline, cell = cell_rows("baseline", seed=0), cell_rows("other", seed=1)
    backwards = pa.array(range(4 * N_PROBLEMS - 1, -1, -1))
    turned = replace(cell, completions=cell.completions.take(backwards), detections=cell.detections.take(backwards))
    assert compared([turned], baseline).equals(compared([cell], baseline))


def test_steps_are_compared_only_where_both_have_them() -> None:
    rules = RULES.model_copy(update={"steps": None})
    table = compared([cell_rows("other", seed=1, rules=rules)], cell_rows("baseline", seed=0, rules=rules))
    assert table.column("metric").to_pylist() == [name for name in COMPARED if not MEASURES[name].needs_steps]


def test_cells_that_cannot_be_paired_are_refused() -> None:
    baseline, cell = cell_rows("baseline", seed=0), cell_rows("other", seed=1)
    shorter = replace(cell, completions=cell.completions.slice(0, 118), detections=cell.detections.slice(0, 118))
    with pytest.raises(BacktrackingError, match=r"differ in 2 completions, .* which other at 0 lacks"):
        compared([shorter], baseline)
    with pytest.raises(BacktrackingError, match="which the baseline lacks"):
        compared([baseline], shorter)
    other_rules = cell_rows("other", seed=1, rules=RULES.model_copy(update={"degenerate_repeats": 9}))
    with pytest.raises(BacktrackingError, match="other rules"):
        compared([other_rules], baseline)


def test_a_sweep_of_29_conditions_is_compared_in_a_few_seconds() -> None:
    baseline = cell_rows("baseline", seed=0, n_problems=120)
    cells = [cell_rows("muted", seed=seed, mute=True, n_problems=120) for seed in (1, 2)]
    started = time.process_time()
    table = compared([cells[number % 2] for number in range(29)], baseline, resamples=10_000)
    assert table.num_rows == 29 * len(COMPARED)
    assert time.process_time() - started < 10
