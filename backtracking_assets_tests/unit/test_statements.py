"""Claims are read from text: values of expressions and of named quantities."""

from fractions import Fraction

import pytest

from backtracking_assets.analysis.statements import find_claims, tokens_of


def claims(text: str) -> list[tuple[tuple[str, ...], Fraction]]:
    return [(claim.subject, claim.value) for claim in find_claims(tokens_of(text))]


@pytest.mark.parametrize(
    ("text", "subject", "value"),
    [
        ("so 14 × 6 = 84 jars", ("*", "14", "6"), 84),
        ("6 * 14 = 84", ("*", "14", "6"), 84),
        ("\\( 7 \\times 8 = 56 \\)", ("*", "7", "8"), 56),
        ("40 times 25 is 1000", ("*", "25", "40"), 1000),
        ("1,250 × 4 = 5,000", ("*", "1250", "4"), 5000),
        ("2 × (8 + 5) = 26", ("2", "*", "(", "8", "+", "5", ")"), 26),
        ("So the total cost is $84.", ("total", "cost"), 84),
        ("there are twelve birds left.", ("there", "birds", "left"), 12),
        ("From the first line x = 6.", ("x",), 6),
        ("Final: 54", ("answer",), 54),
        ("1/6 + 1/6 = 1/3", ("1", "/", "6", "+", "1", "/", "6"), Fraction(1, 3)),
    ],
)
def test_a_claim_is_read(text: str, subject: tuple[str, ...], value: Fraction | int) -> None:
    assert (subject, Fraction(value)) in claims(text)


def test_a_chain_gives_its_value_to_every_subject() -> None:
    assert sorted(claims("the area = 4 × 6 = 24")) == [(("*", "4", "6"), 24), (("area",), 24)]


@pytest.mark.parametrize("text", ["if x = 5", "x = 1 gives 2", "Tom is tall", "9:40", "= = =", "1" * 90 + " + 1 = x"])
def test_what_is_supposed_or_no_value_says_nothing_of_a_name(text: str) -> None:
    assert [subject for subject, _ in claims(text) if subject] == []


def test_positions_are_those_of_the_text() -> None:
    text = "Well, 2 + 2 = 5."
    claim = next(claim for claim in find_claims(tokens_of(text)) if claim.subject)
    assert text[claim.start : claim.end] == "2 + 2 = 5"
