"""Telling completions that loop or break down from text that merely says a trigger often."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from backtracking_assets.analysis.text_columns import (
    TextColumn,
    may_have_long_digits,
    may_repeat_lines,
    may_repeat_words,
)
from backtracking_assets.experiment_sections import Detection

LONGEST_UNIT = 64
"""Tokens of the longest repeated phrase that is looked for."""
LONG_DIGITS = 100
"""Digits in a row, without separators, that no answer needs."""

_LONG_DIGITS = re.compile(rf"(?<![0-9])[0-9]{{{LONG_DIGITS}}}")
_COMPARED = 8
"""Tokens in a row, at most, by which places are compared before a unit is suspected."""
_MULTIPLIER = 1_000_003


def degeneration_rule(text: str, token_ids: Sequence[int] | npt.NDArray[np.integer], rules: Detection) -> str | None:
    """`degeneration_rules` of one completion."""
    return degeneration_rules(TextColumn([text]), [np.asarray(token_ids)], rules)[0]


def degeneration_rules(
    column: TextColumn, token_ids: Sequence[npt.NDArray[np.integer]], rules: Detection
) -> list[str | None]:
    """The name of the first rule that each completion breaks, or None. R is ``rules.degenerate_repeats``.

    - ``empty``: the text is empty or white space.
    - ``long_digits``: at least ``LONG_DIGITS`` digits 0-9 in a row.
    - ``repeated_token``: the same token at least 2 R times in a row. Twice, because numbers and rules drawn with
      dashes repeat a token in sound text.
    - ``repeated_phrase``: a unit of 2 to ``LONGEST_UNIT`` tokens at least R times in a row.
    - ``repeated_word``: the same word, in any case, at least R times in a row with nothing but spaces and punctuation
      between. Letters only: repeated numbers are left to the other rules.
    - ``repeated_line``: the same line at least R times in a row; blank lines and spaces around a line do not matter.

    Each rule is tried where a sample of the characters or tokens does not rule it out. Takes time linear in the length
    of the texts, and about ``LONGEST_UNIT`` passes over the tokens of one that says much again.
    """
    repeats = rules.degenerate_repeats
    digits = may_have_long_digits(column, LONG_DIGITS)
    units = _suspected_units(token_ids, repeats)
    words, lines = may_repeat_words(column, repeats), may_repeat_lines(column, repeats)
    rules_broken: list[str | None] = ["empty" if not text or text.isspace() else None for text in column.texts]
    for row in sorted({*digits, *units, *words, *lines}):
        if not rules_broken[row]:
            text, suspected = column.texts[row], units.get(row, [])
            rules_broken[row] = _rule(
                text, token_ids[row], suspected, row in digits, row in words, row in lines, repeats
            )
    return rules_broken


def _rule(
    text: str,
    tokens: npt.NDArray[np.integer],
    units: Sequence[int],
    digits: bool,
    words: bool,
    lines: bool,
    repeats: int,
) -> str | None:
    """The first rule that a text which is not empty breaks, of those that are not ruled out."""
    if digits and _LONG_DIGITS.search(text):
        return "long_digits"
    for unit in units:
        if _repeats(tokens, unit, _times(unit, repeats)):
            return "repeated_token" if unit == 1 else "repeated_phrase"
    if words and _repeated_word(repeats).search(text):
        return "repeated_word"
    if lines and _has_repeated_line(text, repeats):
        return "repeated_line"
    return None


def _times(unit: int, repeats: int) -> int:
    return 2 * repeats if unit == 1 else repeats


def _suspected_units(token_ids: Sequence[npt.NDArray[np.integer]], repeats: int) -> dict[int, list[int]]:
    """The units, in rising order, that each completion may repeat: those that a sample of places does not rule out."""
    # A unit repeated r times is a run of (r - 1) x unit places at which a token equals the one a unit later. So long a
    # run holds one of every so many places at which the next few tokens equal those a unit later, too.
    compared = min(_COMPARED, repeats - 1)
    tokens = np.concatenate([*token_ids, np.zeros(compared, dtype=np.int32)]).astype(np.uint32)
    offsets = np.cumsum([0, *map(len, token_ids)])
    marks = tokens[: len(tokens) - compared].copy()
    for shift in range(1, compared):
        marks *= _MULTIPLIER
        marks += tokens[shift : len(tokens) - compared + shift]
    suspected: dict[int, list[int]] = {}
    for unit in range(1, LONGEST_UNIT + 1):
        step = (_times(unit, repeats) - 1) * unit - compared + 1
        later = marks[unit::step]
        hits = step * np.flatnonzero(marks[::step][: len(later)] == later)
        if not len(hits):
            continue
        for row in np.unique(np.searchsorted(offsets, hits, side="right") - 1).tolist():
            suspected.setdefault(row, []).append(unit)
    return suspected


def _repeats(tokens: npt.NDArray[np.integer], unit: int, times: int) -> bool:
    """Whether a unit of so many tokens stands so many times in a row."""
    needed = (times - 1) * unit
    if len(tokens) < needed + unit:
        return False
    breaks = np.flatnonzero(tokens[unit:] != tokens[:-unit])
    if len(breaks) == 0:
        return True
    longest = max(int(breaks[0]), len(tokens) - unit - 1 - int(breaks[-1]))
    return longest >= needed or bool((np.diff(breaks) > needed).any())


@lru_cache(maxsize=8)
def _repeated_word(repeats: int) -> re.Pattern[str]:
    # Possessive quantifiers: nothing is tried again, so a long word or a long gap costs its length once.
    return re.compile(rf"(?<!\w)([^\W\d_]++)(?!\w)(?:[\W_]++\1(?!\w)){{{repeats - 1}}}", re.IGNORECASE)


def _has_repeated_line(text: str, repeats: int) -> bool:
    previous, count = None, 0
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped:
            continue
        count = count + 1 if stripped == previous else 1
        previous = stripped
        if count >= repeats:
            return True
    return False
