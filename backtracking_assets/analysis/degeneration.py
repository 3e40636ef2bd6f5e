"""Telling completions that loop or break down from text that merely says a trigger often."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from backtracking_assets.experiment_sections import Detection

LONGEST_UNIT = 64
"""Tokens of the longest repeated phrase that is looked for."""
LONG_DIGITS = 100
"""Digits in a row, without separators, that no answer needs."""

_SAMPLED_TOKENS = 2**15
"""A text of more tokens is read in full for every unit."""

_LONG_DIGITS = re.compile(rf"(?<![0-9])[0-9]{{{LONG_DIGITS}}}")


def degeneration_rule(text: str, token_ids: Sequence[int] | npt.NDArray[np.integer], rules: Detection) -> str | None:
    """The name of the first rule that a completion breaks, or None. R is ``rules.degenerate_repeats``.

    - ``empty``: the text is empty or white space.
    - ``long_digits``: at least ``LONG_DIGITS`` digits 0-9 in a row.
    - ``repeated_token``: the same token at least 2 R times in a row. Twice, because numbers and rules drawn with
      dashes repeat a token in sound text.
    - ``repeated_phrase``: a unit of 2 to ``LONGEST_UNIT`` tokens at least R times in a row.
    - ``repeated_word``: the same word, in any case, at least R times in a row with nothing but spaces and punctuation
      between. Letters only: repeated numbers are left to the other rules.
    - ``repeated_line``: the same line at least R times in a row; blank lines and spaces around a line do not matter.

    Takes time linear in the length of the text, and about ``LONGEST_UNIT`` passes over the tokens.
    """
    repeats = rules.degenerate_repeats
    if not text.strip():
        return "empty"
    if _LONG_DIGITS.search(text):
        return "long_digits"
    tokens = np.asarray(token_ids, dtype=np.int64)
    if _repeats(tokens, unit=1, times=2 * repeats):
        return "repeated_token"
    if any(_repeats(tokens, unit, repeats) for unit in _suspected_units(tokens, repeats)):
        return "repeated_phrase"
    if _repeated_word(repeats).search(text):
        return "repeated_word"
    if _has_repeated_line(text, repeats):
        return "repeated_line"
    return None


def _suspected_units(tokens: npt.NDArray[np.int64], repeats: int) -> list[int]:
    """The units of a phrase that may be repeated: those that a sample of places does not rule out."""
    if len(tokens) > _SAMPLED_TOKENS:
        return list(range(2, LONGEST_UNIT + 1))
    places, units, ends = _sample(repeats)
    n_within = int(np.searchsorted(ends, len(tokens)))
    places, units, ends = places[:n_within], units[:n_within], ends[:n_within]
    return np.unique(units[tokens[places] == tokens[ends]]).tolist()


@lru_cache(maxsize=2)
def _sample(repeats: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of tokens, a unit for each, and the place one unit behind, in the order of the latter.

    A run of places as long as `_repeats` asks for holds one of every so many places, so these are all to be looked at.
    """
    rows: list[npt.NDArray[np.int64]] = []
    for unit in range(2, LONGEST_UNIT + 1):
        places = np.arange(0, _SAMPLED_TOKENS - unit, max((repeats - 1) * unit, 1), dtype=np.int64)
        rows.append(np.stack([places, np.full_like(places, unit), places + unit]))
    places, units, ends = np.concatenate(rows, axis=1)
    order = np.argsort(ends, kind="stable")
    return places[order], units[order], ends[order]


def _repeats(tokens: npt.NDArray[np.int64], unit: int, times: int) -> bool:
    """Whether a unit of so many tokens stands so many times in a row."""
    # A unit repeated r times is a run of (r - 1) x unit places at which a token equals the one a unit earlier.
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
