"""The scan's summaries and its selection on frames whose totals are known."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from backtracking_assets.analysis.component_selection import select_components, selected_layers
from backtracking_assets.analysis.component_summaries import (
    SPECIFIC_DROP,
    refuse_worthless_scan,
    specific_drops,
    summarize_scan,
)
from backtracking_assets.analysis.lens_summaries import refuse_worthless_lens, summarize_lens
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.scan_plan import Scan, check_scan
from backtracking_assets.scan_records import (
    COMPONENT_EFFECTS,
    COMPONENT_SUMMARIES,
    DIVERGENCES,
    FIGURES,
    LENS_POSITIONS,
    MODES,
    SCAN_POSITIONS,
    SELECTED_COMPONENTS,
)

STATISTICS = Statistics(resamples=200)
N_LAYERS, N_EVENTS = 4, 6
MADE = {"scan_digest": "d", "run_id": "r"}
SPECIFIC, BREAKER = ("attention", 2), ("attention", 0)


def where(number: int, kind: str) -> dict[str, Any]:
    """Event `number` is sample 0 of problem p0 to p2; its control is a sample of another problem."""
    problem = f"p{number % 3}" if kind == "event" else f"q{number}"
    return {
        "fingerprint": "f",
        "problem_id": problem,
        "sample_id": number,
        "token_index": 5,
        "kind": kind,
        "event_problem_id": f"p{number % 3}",
        "event_sample_id": number,
        "onset_token_id": 7,
        "same_draw": True,
    }


def scan_of(controls: int = N_EVENTS, **changes: Any) -> tuple[pa.Table, pa.Table]:
    """Attention 2 takes 1 nat from the trigger alone; attention 0 takes 3 nats from everything; others do little."""
    positions, effects = [], []
    for kind, count in (("event", N_EVENTS), ("control", controls)):
        for number in range(count):
            place = where(number, kind)
            figures = dict.fromkeys(FIGURES, -0.1 * (number + 1))
            positions.append(
                {
                    **place,
                    **figures,
                    "ordinary_token_id": 3,
                    "largest_deviation": 0.0,
                    "tolerance": 1e-4,
                    "device": "cpu",
                    **MADE,
                }
            )
            for mode in MODES:
                for component in ("attention", "mlp"):
                    for layer in range(N_LAYERS):
                        little = 0.001 * layer + (0.01 if component == "mlp" else 0.0)
                        change = {
                            SPECIFIC: -1.0 - 0.1 * number if kind == "event" else 0.0,
                            BREAKER: -3.0,
                        }.get((component, layer), -little if kind == "event" else 0.0)
                        row = {
                            "fingerprint": "f",
                            "problem_id": place["problem_id"],
                            "sample_id": number,
                            "layer": layer,
                            "component": component,
                            "mode": mode,
                            **dict.fromkeys(FIGURES, change),
                            **dict.fromkeys(DIVERGENCES, abs(change)),
                            "n_firings": 1,
                            **MADE,
                        }
                        effects.append({**row, **changes})
    return pa.Table.from_pylist(positions, schema=SCAN_POSITIONS), pa.Table.from_pylist(
        effects, schema=COMPONENT_EFFECTS
    )


def select(positions: pa.Table, effects: pa.Table, **changes: Any) -> pa.Table:
    settings = Scan(seed=1, **{"top": 2, "bootstrap": 200, **changes})
    return select_components(positions, effects, settings, statistics=STATISTICS, selection_digest="s", run_id="r")


def test_what_a_component_takes_from_every_token_is_no_specific_drop() -> None:
    drops = specific_drops(*scan_of())
    means = drops.groupby(["mode", "component", "layer"])[SPECIFIC_DROP].mean()
    assert len(drops) == 2 * 2 * N_LAYERS * N_EVENTS
    assert means["zero", "attention", 0] == pytest.approx(0.0)  # as much at the matched position
    assert means["zero", "attention", 2] == pytest.approx(1.25)  # 1.0, 1.1, … 1.5
    assert means["mean", "mlp", 3] == pytest.approx(0.013)


def test_pairs_follow_keys_and_not_the_order_of_rows() -> None:
    positions, effects = scan_of()
    shuffled = effects.take(np.random.default_rng(0).permutation(effects.num_rows))
    expected, found = specific_drops(positions, effects), specific_drops(positions, shuffled)
    assert expected.equals(found)
    assert summarize_scan(positions, effects, statistics=STATISTICS, run_id="r").equals(
        summarize_scan(positions, shuffled, statistics=STATISTICS, run_id="r")
    )


def test_summaries_hold_every_measure_with_its_n_and_correction() -> None:
    table = summarize_scan(*scan_of(), statistics=STATISTICS, run_id="r")
    assert table.schema.equals(COMPONENT_SUMMARIES)
    rows = {
        (row["mode"], row["component"], row["layer"], row["kind"], row["measure"]): row for row in table.to_pylist()
    }
    assert len(rows) == table.num_rows == 2 * 2 * N_LAYERS * (2 * (len(FIGURES) + len(DIVERGENCES)) + 1)
    own = rows["zero", "attention", 2, "event", SPECIFIC_DROP]
    assert (own["estimate"], own["n"], own["n_problems"]) == (pytest.approx(1.25), 6, 3)
    assert own["low"] < 1.25 < own["high"]
    # Three problems allow 4 distinct flips: the smallest two-sided p is 1/4, and Holm's over 8 components is capped.
    assert (own["p_value"], own["p_holm"]) == (0.25, 1.0)
    assert rows["zero", "attention", 2, "event", "onset_log_probability"]["estimate"] == pytest.approx(-1.25)
    assert rows["zero", "attention", 2, "control", "onset_log_probability"]["p_value"] == 1.0
    assert rows["zero", "attention", 2, "event", "kl"]["p_value"] is None


def test_the_specific_component_is_selected_and_the_breaker_is_not() -> None:
    table = select(*scan_of())
    assert table.schema.equals(SELECTED_COMPONENTS)
    assert selected_layers(table) == {"attention": [2, 3], "mlp": [3, 2]}
    rows = {(row["component"], row["layer"]): row for row in table.to_pylist()}
    assert [rows["attention", layer]["rank"] for layer in range(4)] == [4, 3, 1, 2]
    assert rows[SPECIFIC]["selected_share"] == 1.0
    assert rows[BREAKER]["selected_share"] == 0.0
    assert rows[SPECIFIC]["score"] == pytest.approx(1.25)
    for kind in ("attention", "mlp"):
        assert sum(rows[kind, layer]["selected_share"] for layer in range(4)) == pytest.approx(2)


def test_stability_is_that_of_problems() -> None:
    """A component that one problem alone speaks for is not selected where that problem is not drawn."""
    positions, effects = scan_of()
    rows = effects.to_pylist()
    for row in rows:
        if (row["component"], row["layer"]) == ("mlp", 0):
            row["trigger_log_probability"] = -50.0 if row["problem_id"] == "p1" else 0.0
    found = select(positions, pa.Table.from_pylist(rows, schema=COMPONENT_EFFECTS), top=1, bootstrap=4000)
    share = {(row["component"], row["layer"]): row["selected_share"] for row in found.to_pylist()}
    assert share["mlp", 0] == pytest.approx(1 - (2 / 3) ** 3, abs=0.03)  # p1 is drawn at least once in three
    assert select(positions, effects).equals(select(positions, effects))  # seeded


def test_without_matched_positions_nothing_is_selected() -> None:
    with pytest.raises(BacktrackingError, match="No event of the component scan has a matched position"):
        select(*scan_of(controls=0))


def test_an_event_without_a_matched_position_is_left_out_of_pairs() -> None:
    assert specific_drops(*scan_of(controls=2))["sample_id"].unique().tolist() == [0, 1]
    table = summarize_scan(*scan_of(controls=2), statistics=STATISTICS, run_id="r").to_pylist()
    assert {row["n"] for row in table if row["measure"] == SPECIFIC_DROP} == {2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"onset_logit": float("nan")}, "onset_logit of 192 rows of the component scan is NaN or infinite, the first"),
        ({"kl": float("inf")}, "kl of 192 rows"),
        (dict.fromkeys(FIGURES, 0.0), "No component changes any value at any of 6 events"),
    ],
)
def test_a_scan_that_measured_nothing_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BacktrackingError, match=said):
        refuse_worthless_scan(*scan_of(**changes))
    refuse_worthless_scan(*scan_of())


def test_a_scan_without_events_or_with_constant_ones_is_refused() -> None:
    positions, effects = scan_of()
    rows = positions.to_pylist()
    constant = pa.Table.from_pylist([{**row, "onset_log_probability": -0.5} for row in rows], schema=SCAN_POSITIONS)
    with pytest.raises(BacktrackingError, match=r"onset_log_probability is -0.5 at each of 6 events"):
        refuse_worthless_scan(constant, effects)
    controls = pa.Table.from_pylist([row for row in rows if row["kind"] == "control"], schema=SCAN_POSITIONS)
    with pytest.raises(BacktrackingError, match="The component scan has no event"):
        refuse_worthless_scan(controls, effects)


def lens_of(controls: int = N_EVENTS, **changes: Any) -> pa.Table:
    """The onset token appears after layer 1, at events alone."""
    rows = []
    for kind, count in (("event", N_EVENTS), ("control", controls)):
        for number in range(count):
            for layer in range(-1, 3):
                there = kind == "event" and layer >= 1
                rows.append(
                    {
                        **where(number, kind),
                        "layer": layer,
                        "onset_logit": 4.0 + number if there else 0.0,
                        "onset_log_probability": -0.5 - 0.1 * number if there else -5.0,
                        "onset_rank": 1 if there else 40,
                        "largest_deviation": 0.0,
                        "tolerance": 1e-4,
                        "device": "cpu",
                        **MADE,
                        **changes,
                    }
                )
    return pa.Table.from_pylist(rows, schema=LENS_POSITIONS)


def test_the_lens_pairs_each_event_with_its_matched_position() -> None:
    table = lens_of()
    found = summarize_lens(table, statistics=STATISTICS, run_id="r")
    shuffled = table.take(np.random.default_rng(1).permutation(table.num_rows))
    assert summarize_lens(shuffled, statistics=STATISTICS, run_id="r").equals(found)
    rows = {(row["measure"], row["layer"]): row for row in found.to_pylist()}
    assert list(rows) == [
        (m, layer) for m in ("onset_logit", "onset_log_probability", "onset_rank") for layer in range(-1, 3)
    ]
    own = rows["onset_log_probability", 1]
    assert own["event_estimate"] == pytest.approx(-0.75)
    assert own["control_estimate"] == pytest.approx(-5.0)
    assert own["difference"] == pytest.approx(4.25)
    assert own["difference_low"] < 4.25 < own["difference_high"]
    assert (own["n_events"], own["n_event_problems"], own["n_pairs"], own["n_pair_problems"]) == (6, 3, 6, 3)
    assert rows["onset_log_probability", 0]["difference"] == 0
    assert rows["onset_log_probability", 0]["p_value"] == 1.0
    assert rows["onset_rank", 2]["difference"] == -39
    fewer = summarize_lens(lens_of(controls=2), statistics=STATISTICS, run_id="r").to_pylist()
    assert {(row["n_events"], row["n_pairs"]) for row in fewer} == {(6, 2)}
    none = summarize_lens(lens_of(controls=0), statistics=STATISTICS, run_id="r").to_pylist()
    assert {(row["control_estimate"], row["difference"], row["p_holm"]) for row in none} == {(None, None, None)}


def test_a_lens_that_measured_nothing_is_refused() -> None:
    refuse_worthless_lens(lens_of())
    with pytest.raises(BacktrackingError, match="onset_logit of the logit lens is NaN or infinite at 48 places"):
        refuse_worthless_lens(lens_of(onset_logit=float("nan")))
    with pytest.raises(BacktrackingError, match="gives -2 after every layer of all events"):
        refuse_worthless_lens(lens_of(onset_log_probability=-2.0))
    with pytest.raises(BacktrackingError, match="The logit lens has no event"):
        refuse_worthless_lens(lens_of().filter(pa.array([False] * 48)))


def test_a_scan_that_does_not_fit_its_study_is_refused() -> None:
    with pytest.raises(ValueError, match="scan: it looks at problems that the sweep does not use, and there is none"):
        check_scan(Scan(seed=1), 28, 0)
    with pytest.raises(ValueError, match=r"scan.top: it is 6 and the model has 2 layers"):
        check_scan(Scan(seed=1), 2, 10)
