import gc
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking_assets.analysis.answers import LONGEST_ANSWER, Answer, equal, find_answer, judge, warm_up

LONGEST_SECONDS = 0.05


@pytest.fixture(scope="module", autouse=True)
def _warm() -> Iterator[None]:
    warm_up()
    # A collection of everything that pytest holds takes longer than any call and would be counted as one.
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def judged_in_time(text: str, reference: str = "1") -> Answer:
    started = time.thread_time()
    answer = judge(text, reference)
    assert time.thread_time() - started < LONGEST_SECONDS
    return answer


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("69 + 5 = 74\n</think>\nFinal: 70", "70"),
        ("Final: 1\nFinal: 2", "2"),
        ("</think>\n**Final:** 18.", "18"),
        ("</think>\n**Final**: $18$", "18"),
        ("  > final: `18`\nmore text", "18"),
        (r"Final: \(\boxed{18}\)", "18"),
        ("Final:\n\\[\\boxed{18}\\]", "18"),
        (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"whole \boxed{12} and torn \boxed{3", "12"),
        ("Final: 3\n</think>\nI am not sure.", "3"),
        ("Final: 3\n</think>\n\\boxed{4}", "4"),
        ("a</think>Final: 1\n</think>\nFinal: 2", "2"),
        ("the Final: 5", None),
        ("Final:", None),
        ("Final: **\n", None),
        (r"\boxed{12", None),
        ("", None),
        ("</think>", None),
        ("Final: \u200f70\u200e", "70"),
        ("Final: 7\x000", "70"),
        ("Final: \ud83d", "\ufffd"),
        ("Final: 🎉", "🎉"),
    ],
)
def test_finds_the_answer(text: str, found: str | None) -> None:
    assert find_answer(text) == found


def test_marker_is_configurable() -> None:
    assert find_answer("The answer  is 5\nFinal: 6", "The answer is") == "5"
    assert find_answer("Finally 5", "Final") is None


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("70", "70"),
        ("70.00", "70"),
        ("+70", "70"),
        ("−5", "-5"),
        ("1,234.50", "1234.5"),
        ("1{,}234", "1,234"),
        ("$1,200", "1200"),
        ("-$5", "-5"),
        ("70 apples", "70"),
        ("60 km/h", "60"),
        ("12 square feet.", "12"),
        ("10 m^2", "10"),
        (r"70\text{ apples}", "70"),
        ("70%", "70"),
        (r"70\%", "70%"),
        ("1e3", "1000"),
        ("1/2", "0.5"),
        (r"\frac{1}{2}", ".5"),
        (r"-\dfrac{3}{6}", "-1/2"),
        ("x = 5", "5"),
        ("69 + 5 = 74", "74"),
        ("the answer is 70", "70"),
        ("35 + 35", "70"),
        ("2(30 + 5)", "70"),
        ("10**2", "100"),
        (r"1.5 \times 10^{3}", "1500"),
        (r"\sqrt{12}", r"2\sqrt{3}"),
        ("Blue", "blue"),
        ("1/0", "1/0"),
    ],
)
def test_equal_answers(answer: str, reference: str) -> None:
    assert equal(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("1e999", "1"),
        ("1e9999", "1"),
        ("inf", "1"),
        ("nan", "1"),
        ("10^10^10", "1"),
        ("10**(10**10)", "1"),
        ("1/0", "1"),
        (r"\frac{1}{0}", "1"),
        ("0^{-1}", "0"),
        (r"\sqrt{-1}", "1"),
        ("70%", "0.7"),
        ("70 million", "70"),
        ("70 or 80", "70"),
        ("70x", "70"),
        ("70 80", "70"),
        ("1,2,3", "123"),
        ("0.3333333333", "1/3"),
        ("10000000000000000000000001", "10000000000000000000000000"),
        ("x + 1", "1"),
        ("", "0"),
    ],
)
def test_unequal_answers(answer: str, reference: str) -> None:
    assert not equal(answer, reference)


@pytest.mark.parametrize(
    "text",
    [
        "Final: 1" + "0" * 400,
        "Final: 1" + "0" * 100_000,
        "\\boxed{1" + "0" * 100_000 + "}",
        "1" + "0" * 1_000_000,
        "\\boxed{" * 100_000,
        "{" * 1_000_000,
        "Final: " + "(" * 100_000,
        "Final:\n" * 20_000,
        "Final: " + "\\(" * 50_000,
        "Final: " + "a " * 50_000,
        "Final: " + "1 / " * 500,
        "Final: " + " " * 100_000 + "x",
        "\n" * 200_000,
        "</think>" * 25_000,
        "Final: \\frac{" * 10_000,
        "Final: 1" + ",000" * 240,
    ],
)
def test_absurd_texts_get_a_verdict_in_time(text: str) -> None:
    answer = judged_in_time(text)
    assert answer.verdict in ("wrong", "no_answer")
    assert answer.found is None or len(answer.found) <= LONGEST_ANSWER


def test_an_overlong_answer_is_not_what_it_is_cut_to() -> None:
    zeros = "1" + "0" * (LONGEST_ANSWER - 1)
    assert judge(f"Final: {zeros}", zeros).verdict == "correct"
    assert judge(f"Final: {zeros}0", zeros).verdict == "wrong"


_MARKS = ("Final:", "\n", "\\boxed{", "}", "{", "</think>", "**", "$", "\ud800", "\u202e", "\x00", "🎉", "٧", "½", "²")
_SYMBOLS = (
    "1",
    "0",
    "9",
    "99",
    ".",
    ",",
    "e",
    "^",
    "(",
    ")",
    " ",
    "+",
    "-",
    "*",
    "/",
    "=",
    "%",
    " apples",
    "inf",
    "nan",
)
_COMMANDS = ("\\frac{1}{2}", "\\sqrt{", "\\text{", "\\pi", "\\left(", "\\cdot")
_FRAGMENTS = st.lists(st.sampled_from((*_MARKS, *_SYMBOLS, *_COMMANDS)), max_size=40).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.one_of(_FRAGMENTS, _FRAGMENTS.map("Final: {}".format), st.text(st.characters(exclude_categories=()))))
def test_any_text_gets_a_verdict_in_time(text: str) -> None:
    answer = judged_in_time(text)
    assert (answer.found is None) == (answer.verdict == "no_answer")
    if answer.found is not None:
        answer.found.encode("utf-8")


@settings(max_examples=200, deadline=None)
@given(st.text("0123456789+-*/^(){}. \\sqrtfacpi", min_size=1, max_size=40))
def test_any_short_expression_is_compared_in_time(expression: str) -> None:
    assert judged_in_time(f"Final: {expression}", "7").verdict in ("correct", "wrong", "no_answer")


@given(st.integers(-(10**30), 10**30))
def test_an_integer_equals_itself_however_it_is_written(number: int) -> None:
    for written in (f"{number}", f"{number:,}", f"**{number}**.", f"{number}.0", f"${number}$", f"{number} apples"):
        assert equal(written, str(number)), written
        assert not equal(written, str(number + 1)), written


def test_works_outside_the_main_thread() -> None:
    verdicts: list[str] = []
    thread = threading.Thread(target=lambda: verdicts.append(judge(r"Final: \sqrt{16} + 3", "7").verdict))
    thread.start()
    thread.join()
    assert verdicts == ["correct"]
