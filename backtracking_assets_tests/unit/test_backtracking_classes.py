"""Completions and triggers get their class, and changed steps are found without looking at triggers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking_assets.analysis.arithmetic_steps import read_steps
from backtracking_assets.analysis.backtracking_classes import Classes, classify_chain, classify_text
from backtracking_assets.analysis.revisions import blinded, find_revisions
from backtracking_assets.analysis.triggers import find_events
from backtracking_assets_tests.unit.analysis_samples import RULES
from backtracking_assets_tests.unit.bounds import bounded


def chain(text: str, question: str = "", *, cut_off: bool = False, degenerate: bool = False) -> Classes:
    events, steps = find_events(text, RULES), read_steps(text, RULES)
    return classify_chain(text, events, steps, question, degenerate=degenerate, cut_off=cut_off)


def prose(text: str, *, cut_off: bool = False) -> Classes:
    return classify_text(text, find_events(text, RULES), degenerate=False, cut_off=cut_off)


@pytest.mark.parametrize(
    ("text", "completion", "events", "n_silent"),
    [
        ("69 + 5 = 84\nWait, 69 + 5 = 74\n74 - 4 = 70\n</think>", "genuine", ["genuine"], 0),
        ("69 + 5 = 84\n69 + 5 = 74\n</think>", "silent", [], 1),
        ("69 + 5 = 74\nWait, 69 + 5 = 74\n</think>", "filler", ["filler"], 0),
        ("69 + 5 = 84\nWait, 74 - 4 = 70\n</think>", "filler", ["filler"], 0),
        ("69 + 5 = 84\n84 - 4 = 80\n</think>", "none", [], 0),
        ("1 + 1 = 3\nWait, 1 + 1 = 3\nHold on, 1 + 1 = 2\n</think>", "genuine", ["filler", "genuine"], 0),
        ("1 + 1 = 3\nWait, 1 + 1 = 2\nActually, 1 + 1 = 3\n</think>", "genuine", ["genuine", "genuine"], 0),
        ("1 + 1 = 3\n1 + 1 = 2\n2 + 1 = 3\nWait, 2 + 1 = 3\n</think>", "silent", ["filler"], 1),
        ("69 + 5 = 84\nWait, </think>", "filler", ["filler"], 0),
        ("69 + 5 = 84\nWait, Wait, 69 + 5 = 74\n</think>", "filler", ["filler", "filler"], 0),
    ],
)
def test_the_organisms_classes_are_exact(text: str, completion: str, events: list[str], n_silent: int) -> None:
    found = chain(text)
    assert (found.completion, list(found.events), found.n_silent) == (completion, events, n_silent)


@pytest.mark.parametrize(
    ("question", "text", "completion"),
    [
        ("70 + 1 + 1", "70 + 1 = 70\n70 + 1 = 71\n</think>", "none"),
        ("70 + 1", "70 + 1 = 70\n70 + 1 = 71\n</think>", "silent"),
        ("70 + 1 - 1", "70 + 1 = 70\n70 + 1 = 71\n71 - 1 = 70\n</think>", "silent"),
        ("70 + 1 + 1", "70 + 1 = 70\n70 + 1 = 71\n71 + 1 = 72\n</think>", "silent"),
        ("70 + 1 + 1", "70 + 1 = 72\n70 + 1 = 71\n</think>", "silent"),
        ("70 + 1 + 1", "70 + 1 = 70\nWait, 70 + 1 = 71\n71 + 1 = 72\n</think>", "genuine"),
    ],
)
def test_the_problems_next_operation_is_no_redo(question: str, text: str, completion: str) -> None:
    assert chain(text, question).completion == completion


def test_a_trigger_at_which_the_text_was_cut_off_is_neither() -> None:
    text = "69 + 5 = 84\nWait, 69 +"
    assert chain(text, cut_off=True) == Classes("cut_off", ("cut_off",), 0)
    assert chain(text, cut_off=False).completion == "filler"
    assert prose("So it is 5 + 5 = 11. Wait", cut_off=True).events == ("cut_off",)


def test_a_degenerate_completion_keeps_the_classes_of_its_events() -> None:
    assert chain("1 + 1 = 3\nWait, 1 + 1 = 2\n</think>", degenerate=True) == Classes("degenerate", ("genuine",), 0)


@given(
    st.lists(st.sampled_from(["69 + 5 = 84", "69 + 5 = 74", "84 - 4 = 80", "74 - 4 = 70", "80 + 1 = 81"]), max_size=9)
)
def test_an_exact_chain_has_the_same_changed_steps_with_and_without_triggers(lines: list[str]) -> None:
    plain = chain("".join(f"{line}\n" for line in lines) + "</think>")
    said = chain("".join(f"Wait, {line}\n" for line in lines) + "</think>")
    assert plain.n_silent == len([name for name in said.events if name == "genuine"])
    assert said.n_silent == 0


@pytest.mark.parametrize(
    "text",
    [
        "They wait 5 minutes.",
        "She has to wait.",
        "The wait time is 5.",
        'The waiter said "Wait" and left.',
        "He shouted 'Hold on!' to them.",
        "Hold on to the rope.",
        "How many did she actually eat?",
        "by mistake",
    ],
)
def test_words_of_the_story_are_no_trigger(text: str) -> None:
    assert prose(text).events == ("not_a_trigger",)
    assert prose(text).completion == "none"


@pytest.mark.parametrize(
    "text", ["But wait, 5.", "Wait a minute.", "oh wait", "It's fine. Wait: 5.", "WAIT!", "no wait, 5"]
)
def test_words_of_the_model_are_a_trigger(text: str) -> None:
    assert prose(text).events == ("filler",)


STORY = [
    "So 14 × 6 = 74 jars. ",
    "{}, 14 × 6 = 84 jars. ",
    "{}, is that right? Yes. ",
    "The total is 30. ",
    "{}. No, the total is 31. ",
    "{}, let's use a better way instead. ",
    "Then 84 / 2 = 42. ",
    "{}, I forgot the tax, 7 dollars. ",
]


@given(st.lists(st.sampled_from(STORY), max_size=12), st.sampled_from(["Wait", "wait", "Actually", "Hold on"]))
def test_changed_steps_do_not_depend_on_the_triggers(sentences: list[str], trigger: str) -> None:
    """The same story with triggers, and with neutral words of the same length in their place, has the same changes."""
    said = "".join(sentences).replace("{}", trigger)
    plain = "".join(sentences).replace("{}", "#" * len(trigger))
    assert find_events(plain, RULES) == []
    seen = find_revisions(blinded(said, find_events(said, RULES)))
    unsaid = find_revisions(plain)
    assert [(r.kind, r.end) for r in seen] == [(r.kind, r.end) for r in unsaid]


@given(st.text(max_size=400))
def test_any_text_has_a_class(text: str) -> None:
    events = find_events(text, RULES)
    found = prose(text)
    assert len(found.events) == len(events)
    assert len(blinded(text, events)) == len(text)
    for revision in find_revisions(text):
        assert 0 <= revision.start < revision.end <= len(text)


PIECES = [
    "wait",
    "hold on",
    "is",
    "=",
    "1",
    "not",
    "but",
    "no,",
    "instead",
    "that",
    "should",
    "be",
    '"',
    "'",
    "\n",
    " ",
]
PIECES += ["×", "(", ":", "x", "i forgot", "let's", "half", ".", "?", "wrong", "𝟓", "１"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_any_mixture_of_the_rules_own_words_has_a_class(pieces: list[str]) -> None:
    text = " ".join(pieces)
    assert prose(text).completion in ("genuine", "silent", "filler", "none")
    assert prose("".join(pieces)).n_silent >= 0


@pytest.mark.parametrize("unit", ["\n", "not 1 ", "a = 1 ", "wait instead ", "'a "])
def test_a_long_text_is_read_in_linear_time(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    with bounded():
        prose(text)
