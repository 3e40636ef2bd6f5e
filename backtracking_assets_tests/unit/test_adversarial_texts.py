"""Whatever a model writes is read in bounded time, without an exception, and gets a row like any other completion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking_assets.analysis.answers import equal, judge
from backtracking_assets.analysis.arithmetic_steps import read_steps
from backtracking_assets.analysis.degeneration import degeneration_rule
from backtracking_assets.analysis.triggers import find_events
from backtracking_assets.experiment_sections import Detection
from backtracking_assets_tests.unit.bounds import bounded

RULES = Detection(
    strict=("Wait", "Hold on"),
    relaxed=("let me check", "mistake"),
    steps="arithmetic_chain",
)
N = 300_000
NESTED = 100_000

REPEATED = {
    **{f"one {name}": character for name, character in {"letter": "a", "newline": "\n", "space": " "}.items()},
    **{f"{mark} alone": mark for mark in "9{}[]()\\$*^=-+%.,<"},
    "triggers": "Wait ",
    "halves of triggers": "Hold ",
    "spaces in a trigger": "Hold \t\n",
    "glued triggers": "wait,",
    "answer marks": "Final: 1\n",
    "ends of thinking": "</think>",
    "boxes": "\\boxed{",
    "texts": "\\text{",
    "steps": "1 + 1 = 2\n",
    "NUL": "\0",
    "lone surrogates": "\ud800",
    "right-to-left marks": "\u202e1\u202c",
    "combining marks": "a\u0301\u0302",
    "emoji": "🎉",
}
ANSWERS = {
    "nested brackets": "[" * NESTED,
    "closed parentheses": "(" * NESTED + "1" + ")" * NESTED,
    "closed braces": "\\boxed{" + "{" * NESTED + "}" * NESTED + "}",
    "exponent": "1e999999999",
    "small exponent": "1e-999999999",
    "over a small one": "1/1e-99999999",
    "exponent of digits": "1e" + "9" * 1000,
    "tower": "10**(10**10)",
    "caret tower": "9^9^9^9",
    "long tower": "2**" * 50 + "9",
    "huge fraction": "\\frac{" + "1" * NESTED + "}{" + "3" * NESTED + "}",
    "slashed fraction": "1" * NESTED + "/" + "7" * NESTED,
    "nested fractions": "\\frac{1}{" * 50 + "2" + "}" * 50,
    "nested roots": "\\sqrt{" * 100 + "2" + "}" * 100,
    "factorial": "99999999!",
    "binomial": "\\binom{999999}{500000}",
    "sum": "\\sum_{i=1}^{999999999} i",
    "integral": "\\int_0^\\infty x^x dx",
    "backtracking regex": "a?" * 30 + "a" * 30,
    "commas": "1," * NESTED,
    "points": "1." * NESTED,
    "spaced digits": "1 " * NESTED,
    "per cent": "%" * NESTED,
    "units": "5" + " apples" * NESTED,
    "product": "9 * " * NESTED + "9 = 1",
    "inf": "inf",
    "full-width digits": "１２３" * 100,
    "hidden": "\u202e8\u200b\0",
}


def read_all(text: str) -> None:
    """Everything that is read from a completion."""
    events = find_events(text, RULES)
    assert all(0 <= event.start < event.end <= len(text) for event in events)
    assert judge(text, "7", RULES.answer_marker).verdict in ("correct", "wrong", "no_answer")
    assert read_steps(text, RULES).n_steps >= 0
    tokens = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype=np.uint16).astype(np.int32)
    degeneration_rule(text, tokens, RULES)


@pytest.mark.parametrize("unit", REPEATED.values(), ids=REPEATED)
def test_a_text_that_repeats_one_thing_is_read_in_time(unit: str) -> None:
    with bounded():
        read_all((unit * N)[:N])


@pytest.mark.slow
@pytest.mark.parametrize("unit", REPEATED.values(), ids=REPEATED)
def test_ten_million_characters_are_read_in_time(unit: str) -> None:
    with bounded(60):
        read_all((unit * 10_000_000)[:10_000_000])


def test_ten_million_letters_are_read_in_time() -> None:
    with bounded():
        read_all("a" * 10_000_000)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_absurd_answer_is_judged_in_time(answer: str) -> None:
    with bounded():
        read_all(f"Final: {answer}")
        read_all(f"\\boxed{{{answer}}}")
        assert not equal(answer, "7")
        assert judge("Final: 7", answer).verdict == "wrong"  # as the reference answer of a problem


_PIECES = st.one_of(
    st.sampled_from([*REPEATED.values(), *(answer[:200] for answer in ANSWERS.values()), "Final: ", "\n", " = ", "7"]),
    st.text(st.characters(exclude_categories=()), max_size=10),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(_PIECES, st.integers(1, 30)), max_size=8))
def test_any_mixture_is_read_in_time(pieces: list[tuple[str, int]]) -> None:
    with bounded(5):
        read_all("".join(piece * times for piece, times in pieces))


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(st.lists(st.tuples(_PIECES, st.integers(1, 300)), max_size=12))
def test_any_longer_mixture_is_read_in_time(pieces: list[tuple[str, int]]) -> None:
    with bounded(10):
        read_all("".join(piece * times for piece, times in pieces))
