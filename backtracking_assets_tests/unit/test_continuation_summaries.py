"""Figures of the continuation ablation, and results that are refused because they measure nothing."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from backtracking_assets.analysis.continuation_summaries import refuse_worthless, summarize
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.measures import CONTINUATION_MEASURES
from backtracking_assets.records import CONTINUATION_SUMMARIES, UNSCALED, Cell
from backtracking_assets_tests.unit.continuation_samples import STRONG, WEAK, positions_of, samples_of

STATISTICS = Statistics(resamples=400)


def summaries(positions: pa.Table | None = None, **changes: Any) -> pd.DataFrame:
    facts = {"problem_set_digest": "problems", "rules_digest": "rules", "statistics": STATISTICS, "run_id": "run-2"}
    table = summarize(positions or positions_of(), samples_of(), **{**facts, **changes})
    assert table.schema.equals(CONTINUATION_SUMMARIES)
    return table.to_pandas()


def one(frame: pd.DataFrame, cell: Cell, kind: str, scaled_at: str, measure: str) -> pd.Series:
    wanted = {**cell.__dict__, "kind": kind, "scaled_at": scaled_at, "measure": measure}
    rows = frame.loc[(frame[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_differences_are_paired_by_position() -> None:
    frame, positions = summaries(), positions_of().to_pandas()
    events = positions[positions["kind"] == "event"]
    by_cell = {cell: events[events["layer_subset"] == cell.layer_subset] for cell in (UNSCALED, STRONG)}
    own = one(frame, STRONG, "event", "one_position", "onset_probability")
    means = {cell: rows["onset_probability"].mean() for cell, rows in by_cell.items()}
    assert own["estimate"] == pytest.approx(means[STRONG])
    assert own["difference"] == pytest.approx(means[STRONG] - means[UNSCALED])
    assert own["difference_low"] <= own["difference"] <= own["difference_high"] < 0
    assert (own["n"], own["n_problems"]) == (12, 6)


def test_the_unscaled_run_has_one_row_a_measure_and_no_difference() -> None:
    frame = summaries()
    unscaled = frame[frame["layer_subset"] == UNSCALED.layer_subset]
    assert set(unscaled["scaled_at"]) == {"nowhere"}
    assert not unscaled.duplicated(["kind", "measure"]).any()
    assert unscaled[["difference", "p_value", "p_holm"]].isna().all(axis=None)
    assert set(unscaled[unscaled["kind"] == "event"]["measure"]) == set(CONTINUATION_MEASURES)
    assert set(unscaled[unscaled["kind"] == "control"]["measure"]) == {
        name for name, measure in CONTINUATION_MEASURES.items() if not measure.sampled
    }


def test_sampled_shares_count_continuations() -> None:
    frame = summaries()
    own = one(frame, STRONG, "event", "from_there_on", "comes_again")
    assert (own["estimate"], own["n"], own["n_problems"]) == (0.0, 120, 6)
    assert one(frame, UNSCALED, "event", "nowhere", "comes_again")["estimate"] == pytest.approx(0.8)
    assert one(frame, STRONG, "event", "one_position", "comes_within")["estimate"] == pytest.approx(0.1)


def test_p_is_corrected_over_the_interventions() -> None:
    frame = summaries()
    rows = [one(frame, cell, "event", "one_position", "onset_probability") for cell in (STRONG, WEAK)]
    smaller = min(row["p_value"] for row in rows)
    assert min(row["p_holm"] for row in rows) == pytest.approx(min(2 * smaller, 1.0))


def test_the_order_of_rows_changes_nothing() -> None:
    positions = positions_of()
    order = np.random.default_rng(0).permutation(positions.num_rows)
    first = summaries().sort_values(["layer_subset", "kind", "scaled_at", "measure"], ignore_index=True)
    other = summaries(positions.take(order)).sort_values(first.columns.tolist()[:5], ignore_index=True)
    columns = ["estimate", "low", "high", "difference", "difference_low", "p_value"]
    key = ["layer_subset", "scale", "kind", "scaled_at", "measure"]
    pd.testing.assert_frame_equal(
        first.set_index(key)[columns].sort_index(), other.set_index(key)[columns].sort_index()
    )


def test_a_missing_position_is_refused() -> None:
    positions = positions_of()
    last = positions.slice(0, positions.num_rows - 1)
    with pytest.raises(BacktrackingError, match=r"weak at 0\.5 was not measured at the positions of the unscaled run"):
        summaries(last)


def test_figures_that_mean_something_pass() -> None:
    refuse_worthless(positions_of())


def test_an_empty_result_is_refused() -> None:
    with pytest.raises(BacktrackingError, match="an empty result is an error"):
        refuse_worthless(positions_of().slice(0, 0))
    positions = positions_of().to_pandas()
    with pytest.raises(BacktrackingError, match="has no event"):
        refuse_worthless(as_table(positions[positions["kind"] == "control"]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["onset_probability", "trigger_probability", "entropy"])
def test_a_value_that_is_not_finite_is_refused_by_name(name: str, value: float) -> None:
    positions = positions_of().to_pandas()
    positions.loc[3, name] = value
    with pytest.raises(BacktrackingError, match=rf"{name} of 1 positions is NaN or infinite, the first is sample"):
        refuse_worthless(as_table(positions))


@pytest.mark.parametrize("name", ["onset_probability", "trigger_probability", "entropy"])
def test_a_constant_is_refused(name: str) -> None:
    positions = positions_of().to_pandas()
    positions[name] = 0.25
    with pytest.raises(BacktrackingError, match=rf"{name} is 0.25 at each of 12 events without intervention"):
        refuse_worthless(as_table(positions))


def test_interventions_that_change_nothing_are_refused() -> None:
    positions = positions_of().to_pandas()
    unscaled = positions[positions["layer_subset"] == UNSCALED.layer_subset]
    copies = [unscaled.assign(layer_subset=cell.layer_subset, scale=cell.scale) for cell in (UNSCALED, STRONG, WEAK)]
    with pytest.raises(BacktrackingError, match="No intervention changes any value at any of 12 events"):
        refuse_worthless(as_table(pd.concat(copies)))


def as_table(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pylist(frame.to_dict("records"), schema=positions_of().schema)
