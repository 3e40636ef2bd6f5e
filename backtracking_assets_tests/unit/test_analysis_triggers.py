import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backtracking_assets.analysis.triggers import Event, find_events, onset, token_at
from backtracking_assets.experiment_sections import Detection

RULES = Detection(
    strict=("Wait", "Actually", "Hold on"), relaxed=("Let me check", "Let's check", "I was wrong", "mistake")
)


def phrases(text: str, rules: Detection = RULES) -> list[tuple[str, str]]:
    return [(event.phrase, text[event.start : event.end]) for event in find_events(text, rules)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Wait, 69 + 5 = 74", [("Wait", "Wait")]),
        ("WAIT. wait", [("Wait", "WAIT"), ("Wait", "wait")]),
        ("waiting, await, Waits, wait_for", []),
        ("wait-and-see", [("Wait", "wait")]),
        ("Hold \n\t on and HOLD ON", [("Hold on", "Hold \n\t on"), ("Hold on", "HOLD ON")]),
        ("Holdon, hold, on", []),
        ("let’s check, Let's  check", [("Let's check", "let’s check"), ("Let's check", "Let's  check")]),
        ("No mistakes, one mistake", [("mistake", "mistake")]),
        ("éWait Waité", []),
        ("", []),
    ],
)
def test_triggers_are_whole_words_in_any_case(text: str, expected: list[tuple[str, str]]) -> None:
    assert phrases(text) == expected


def test_kind_and_position() -> None:
    assert find_events("a mistake. Actually", RULES) == [
        Event("mistake", "relaxed", 2, 9),
        Event("Actually", "strict", 11, 19),
    ]


def test_overlaps_go_to_the_leftmost_and_then_the_longest() -> None:
    rules = Detection(strict=("Wait", "Wait a minute", "minute please"))
    assert phrases("wait a minute please", rules) == [("Wait a minute", "wait a minute")]


def test_strict_events_do_not_depend_on_relaxed_triggers() -> None:
    rules = Detection(strict=("Wait",), relaxed=("oh wait", "wait a minute", "minute"))
    assert phrases("oh wait a minute", rules) == [("Wait", "wait"), ("minute", "minute")]


def test_onset_follows_the_priority() -> None:
    text = "a mistake. Actually"
    earliest = RULES.model_copy(update={"priority": "earliest"})
    strict_onset, earliest_onset = (onset(find_events(text, rules), rules) for rules in (RULES, earliest))
    assert strict_onset is not None
    assert earliest_onset is not None
    assert (strict_onset.phrase, earliest_onset.phrase) == ("Actually", "mistake")
    relaxed_only = onset(find_events("a mistake", RULES), RULES)
    assert relaxed_only is not None
    assert relaxed_only.phrase == "mistake"
    assert onset([], RULES) is None


def test_token_at_skips_tokens_without_text() -> None:
    starts = [0, 4, 4, 4, 9]
    assert [token_at(starts, character) for character in (0, 3, 4, 8, 9, 99)] == [0, 0, 3, 3, 4, 4]
    with pytest.raises(ValueError, match="no token"):
        token_at([], 0)
    with pytest.raises(ValueError, match="no token"):
        token_at([3], 2)


@given(st.lists(st.text(max_size=3), min_size=1, max_size=30).filter(any), st.data())
def test_token_at_finds_the_token_that_holds_the_character(tokens: list[str], data: st.DataObject) -> None:
    starts, length = [], 0
    for token in tokens:
        starts.append(length)
        length += len(token)
    character = data.draw(st.integers(0, length - 1))
    # A token without text at the very end starts after every character, so it can never be meant.
    index = token_at(starts, character)
    assert starts[index] <= character < starts[index] + len(tokens[index])


@given(st.text(st.characters(exclude_categories=())), st.sampled_from(["wait", "Hold  on", "let's check", "mistake"]))
def test_a_trigger_between_spaces_is_always_found(text: str, trigger: str) -> None:
    whole = f"{text} {trigger} {text}"
    events = find_events(whole, RULES)
    assert any(event.start <= len(text) + 1 < event.end for event in events)
    assert all(before.end <= after.start for before, after in pairwise(events))


@pytest.mark.parametrize("unit", ["Wait, ", "Hold ", "let me ", "a", " ", "wait", "Let’", "Hold on a mistake"])
def test_ten_megabytes_take_linear_time(unit: str) -> None:
    def seconds(characters: int) -> float:
        text = unit * (characters // len(unit))
        started = time.process_time()
        find_events(text, RULES)
        return time.process_time() - started

    small = seconds(1_000_000)
    assert seconds(10_000_000) < 30 * small + 0.5
