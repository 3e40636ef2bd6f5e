"""Which positions are looked at, which stand beside them, and what a continuation says."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backtracking_assets.analysis.continuation_positions import Chosen, choose_positions, observed_triggers
from backtracking_assets.analysis.continuation_texts import read_continuation
from backtracking_assets.analysis.detection import detect
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.models.organism.vocabulary import TOKEN_IDS
from backtracking_assets.plan import Continuation, ContinuationEntry
from backtracking_assets_tests.unit.analysis_samples import (
    RULES,
    completion_row,
    completions_table,
    sample_completions,
    sample_problems,
)

STEP = ["1", " + 1", " = ", "2", "\n"]


def settings(**changes: Any) -> Continuation:
    cells = (ContinuationEntry(layer_subsets=("a",), scales=(0.0,)),)
    return Continuation(**{"seed": 3, "cells": cells, **changes})


def choose(completions: pa.Table, **changes: Any) -> Chosen:
    problems = sample_problems(40)
    return choose_positions(completions, detect(completions, problems, RULES, run_id="r"), settings(**changes))


def table(*texts: list[str], problem: str = "p000") -> pa.Table:
    return completions_table(completion_row(problem, number, tokens) for number, tokens in enumerate(texts))


def test_an_event_is_the_first_strict_trigger_and_its_prefix_ends_before_it() -> None:
    completions = table([*STEP, "Wait", ", ", *STEP, "Actually", ", ", "2"])
    (event,) = choose(completions).of("event")
    assert (event.key, event.event, event.token_index) == (("p000", 0), ("p000", 0), 5)
    assert event.before == tuple(TOKEN_IDS[token] for token in STEP)
    assert event.onset_token_id == event.drawn_token_id == TOKEN_IDS["Wait"]


def test_an_event_at_the_first_token_is_left_out_and_counted() -> None:
    chosen = choose(table(["Wait", ", ", "2"], [*STEP, "Wait", ", ", "2"]))
    assert (chosen.n_found, chosen.n_at_first_token) == (2, 1)
    assert [event.key for event in chosen.of("event")] == [("p000", 1)]


def test_no_event_to_look_at_is_an_error() -> None:
    with pytest.raises(BacktrackingError, match=r"\(1 of 2 completions have one at all\), so there is nothing to look"):
        choose(table(["Wait", ", ", "2"], STEP))


def test_events_are_drawn_evenly_over_problems_and_by_seed() -> None:
    completions = sample_completions(40, n_samples=6)
    every = choose(completions, events=1000)
    of_problem = Counter(event.problem_id for event in every.of("event"))
    assert every.n_found == len(every.of("event"))
    few = choose(completions, events=50)
    drawn = Counter(event.problem_id for event in few.of("event"))
    assert sum(drawn.values()) == 50
    # No problem has two more than another that could have given one more.
    assert all(drawn[p] >= min(of_problem[p], max(drawn.values()) - 1) for p in of_problem)
    shuffled = completions.take(list(reversed(range(completions.num_rows))))
    assert set(choose(shuffled, events=50).of("event")) == set(few.of("event"))
    assert {event.key for event in choose(completions, events=50, seed=4).of("event")} != {
        e.key for e in few.of("event")
    }


def test_a_control_stands_behind_the_same_token_in_a_completion_of_its_own_without_event() -> None:
    completions = sample_completions(40, n_samples=6)
    chosen = choose(completions, events=1000)
    tokens = {(r["problem_id"], r["sample_id"]): r["token_ids"] for r in completions.to_pylist()}
    events = {event.key: event for event in chosen.of("event")}
    controls = chosen.of("control")
    assert 0 < len(controls) == min(len(events), chosen.n_without_event)
    assert len({control.key for control in controls}) == len(controls)
    assert len({control.event for control in controls}) == len(controls)
    assert not {control.key for control in controls} & events.keys()
    for control in controls:
        event = events[control.event]
        assert control.before == tuple(tokens[control.key][: control.token_index])
        assert control.before[-1] == event.before[-1]
        assert control.drawn_token_id == tokens[control.key][control.token_index]
        assert control.onset_token_id == event.onset_token_id


def test_the_nearest_token_index_is_taken_then_the_same_problem() -> None:
    event = completion_row("p000", 0, [*STEP, *STEP, "Wait", ", ", "2"])
    far = completion_row("p000", 1, [*STEP, "2", "\n", "2"])  # a line ends at token 4 and at token 6
    near = completion_row("p001", 0, [*STEP, *STEP, "2"])
    (control,) = choose(completions_table([event, far, near])).of("control")
    assert (control.key, control.token_index) == (("p001", 0), 10)
    (control,) = choose(completions_table([event, far])).of("control")
    assert (control.key, control.token_index) == (("p000", 1), 7)
    same = completion_row("p000", 2, [*STEP, *STEP, "2"])
    (control,) = choose(completions_table([event, near, same])).of("control")
    assert control.key == ("p000", 2)


def test_an_event_without_a_like_position_has_no_control() -> None:
    chosen = choose(table([*STEP, "Wait", ", ", "2"], ["2", " = ", "2"], [*STEP]))
    # The last one holds the token as its very last: nothing was drawn behind it.
    assert (len(chosen.of("event")), chosen.of("control"), chosen.n_without_event) == (1, (), 2)


def test_observed_triggers_are_in_the_cases_that_occur() -> None:
    rows = [completion_row("p000", 0, ["2", "\n", "Wait", ", ", "2", "\n", "Hold on", ", "])]
    found = observed_triggers(completions_table(rows), RULES)
    assert found.texts == ("Actually", "Hold on", "Wait")
    assert found.first_token_ids == {TOKEN_IDS["Wait"], TOKEN_IDS["Hold on"]}
    shouted = completion_row("p000", 0, ["WAIT", " no", " wait", "!"], token_ids=[1, 2, 3, 4])
    found = observed_triggers(completions_table([shouted]), RULES)
    assert found.texts == ("Actually", "Hold on", "WAIT", "Wait", "wait")
    assert found.first_token_ids == {1, 3}


@pytest.mark.parametrize(
    ("continuation", "again", "within", "settled"),
    [
        ("Wait, 2", True, True, True),
        (" wait", True, True, False),
        ("\n\n**Hold  on** now", True, True, True),
        ("Waiting", False, False, False),
        ("2\nWait.", False, True, True),
        ("2\n", False, False, False),
        ("", False, False, False),
        ("</think> Wait,", False, True, True),
    ],
)
def test_reading_a_continuation(continuation: str, again: bool, within: bool, settled: bool) -> None:
    before = "Wait, 1 = 2\n"
    found = read_continuation(before + continuation, len(before), RULES)
    assert (found.again, found.within, found.settled) == (again, within, settled)


def test_what_stands_before_decides_whether_a_word_is_whole() -> None:
    assert not read_continuation("aWait, ", 1, RULES).again
    assert not read_continuation("Hold on, ", 4, RULES).within  # it began before the position


@given(st.text("Wait Hold on2\n,", max_size=14), st.text("Wait Hold on2\n,", max_size=6))
def test_what_is_settled_stays(text: str, more: str) -> None:
    found = read_continuation(text, 0, RULES)
    later = read_continuation(text + more, 0, RULES)
    if found.settled:
        assert (later.again, later.within) == (found.again, found.within)
