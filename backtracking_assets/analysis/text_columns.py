"""Many texts as one array of characters, for conditions that rule most of them out before a rule reads them exactly.

What is found here is never too little and may be too much: the exact rules decide. Every character outside ASCII
stands as a `?`, so that positions are those of the texts. Texts with letters, digits or white space outside ASCII are
`odd`: nothing is ruled out in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from backtracking_assets.analysis.triggers import (
    Event,
    event_of,
    find_events,
    longest_first,
    merged_events,
    trigger_pattern,
)
from backtracking_assets.experiment_sections import Detection

Numbers = npt.NDArray[np.integer[Any]]

PADDING = 32
"""Zeros behind characters that are read some at a time."""
_ASCII = bytes(range(128))
_FIRST_BYTES = np.array([2 ** (8 * length) - 1 for length in range(9)], dtype=np.uint64)
_MASKS = np.array([(0xFFFFFFFF << 8 * (4 - length)) & 0xFFFFFFFF for length in range(5)], dtype=np.uint32)
_SPACE = " \t\n\r\v\f\x1c\x1d\x1e\x1f?"
"""White space, and what white space outside ASCII stands as."""


@dataclass(frozen=True)
class TextColumn:
    """Texts one behind another."""

    texts: Sequence[str]

    @cached_property
    def plain(self) -> list[bytes]:
        """Each text as many bytes as characters."""
        return [text.encode("ascii", "replace") for text in self.texts]

    @cached_property
    def padded(self) -> bytes:
        """All texts in lower case, a line break behind each, and `PADDING` zeros."""
        return b"\n".join([*self.plain, bytes(PADDING)]).lower()

    @cached_property
    def folded(self) -> list[bytes]:
        """Each text in lower case, as many bytes as characters."""
        padded, offsets = self.padded, self.offsets.tolist()
        return [padded[begin : end - 1] for begin, end in pairwise(offsets)]

    @cached_property
    def flat(self) -> npt.NDArray[np.uint8]:
        """All texts in lower case, a line break behind each."""
        return np.frombuffer(self.padded, dtype=np.uint8)[:-PADDING]

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each text starts in `flat`, and the end of that, shape [texts + 1]."""
        return np.cumsum([0, *map(len, self.texts)], dtype=np.int64) + np.arange(len(self.texts) + 1)

    @cached_property
    def odd(self) -> set[int]:
        """Rows of texts with letters, digits or white space outside ASCII: no condition is told of these."""
        return {row for row, text in enumerate(self.texts) if not text.isascii() and _is_odd(text)}

    @cached_property
    def letter_starts(self) -> npt.NDArray[np.int64]:
        """Places in `flat` at which a run of letters begins."""
        return _starts(_within(self.flat, "a", "z"))

    @cached_property
    def letter_heads(self) -> npt.NDArray[np.uint32]:
        """The four characters from each place of `letter_starts` on, the first one in the highest byte."""
        return self.heads_at(self.letter_starts)

    @cached_property
    def word_starts(self) -> npt.NDArray[np.int64]:
        """Places in `flat` at which a run of letters, or one of digits, begins."""
        digits = _starts(_within(self.flat, "0", "9"))
        both = np.concatenate([self.letter_starts, digits])
        both.sort(kind="stable")  # two rising halves
        return both

    @cached_property
    def word_keys(self) -> npt.NDArray[np.uint32]:
        """The first four letters of each word, 0 behind a shorter one."""
        flat = self.flat
        letters, digits = _within(flat, "a", "z"), _within(flat, "0", "9")
        ends = np.concatenate([_ends(letters), _ends(digits)])
        ends.sort(kind="stable")
        lengths = np.minimum(ends - self.word_starts, 4)
        return self.heads_at(self.word_starts) & _MASKS[lengths]

    def heads_at(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """The four characters from each place of `flat` on, the first one in the highest byte; 0 behind the last."""
        heads = np.ndarray((len(self.flat),), dtype=">u4", buffer=self.padded, strides=(1,))
        return heads[places].astype(np.uint32)

    def rows_of(self, places: Numbers) -> npt.NDArray[np.int64]:
        """The text that each place of `flat` is in."""
        return np.searchsorted(self.offsets, places, side="right") - 1


def words_at(plain: bytes, starts: Numbers, lengths: Numbers) -> npt.NDArray[np.uint64]:
    """The first eight characters of so many from each place on, 0 behind fewer.

    Args:
        plain: characters, `PADDING` zeros behind them.
    """
    words = np.ndarray((len(plain) - 7,), dtype="<u8", buffer=plain, strides=(1,))
    return words[starts] & _FIRST_BYTES[np.minimum(lengths, 8)]


def _within(flat: npt.NDArray[np.uint8], first: str, last: str) -> npt.NDArray[np.bool_]:
    return (flat - np.uint8(ord(first))) <= ord(last) - ord(first)


def _starts(members: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Where runs begin."""
    starts = members.copy()
    starts[1:] &= ~members[:-1]
    return np.flatnonzero(starts)


def _ends(members: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Behind the last one of each run; the last value is in none."""
    return np.flatnonzero(members[:-1] & ~members[1:]) + 1


def _is_odd(text: str) -> bool:
    others = text.encode("utf-8", "surrogatepass").translate(None, _ASCII)
    characters = set(others.decode("utf-8", "surrogatepass"))
    return any(character.isalnum() or character.isspace() for character in characters)


@lru_cache(maxsize=16)
def _beginnings(phrases: tuple[str, ...]) -> npt.NDArray[np.bool_] | None:
    """Which first three characters of a word, five bits each, may begin one of the phrases.

    None where one of the phrases does not begin with a letter a-z.
    """
    table = np.zeros((32, 32, 32), dtype=bool)
    for phrase in phrases:
        places: list[list[int]] = []
        for character in " ".join(phrase.casefold().split()):
            if character.isascii() and character.isalpha():
                places.append([ord(character) & 31])
            elif character == " ":  # more white space may follow
                places.append(sorted({ord(space) & 31 for space in _SPACE}))
                break
            else:
                break
        if not places or not phrase[0].isascii() or not phrase[0].isalpha():
            return None
        everything = [*range(32)]
        table[np.ix_(*[*places, everything, everything, everything][:3])] = True
    return table.reshape(-1)


def events_of(column: TextColumn, rules: Detection) -> list[list[Event]]:
    """`find_events` of each text."""
    strict, relaxed = _beginnings(rules.strict), _beginnings(rules.relaxed)
    if strict is None or relaxed is None:
        return [find_events(text, rules) for text in column.texts]
    of_strict = _events(column, rules.strict, strict, "strict")
    of_relaxed = _events(column, rules.relaxed, relaxed, "relaxed") if rules.relaxed else {}
    events = [merged_events(of_strict.get(row, []), of_relaxed.get(row, [])) for row in range(len(column.texts))]
    for row in column.odd:
        events[row] = find_events(column.texts[row], rules)
    return events


def _events(
    column: TextColumn, phrases: tuple[str, ...], beginnings: npt.NDArray[np.bool_], kind: Literal["strict", "relaxed"]
) -> dict[int, list[Event]]:
    """The triggers of one kind in plain texts by the rules of `find_events`; texts without any are left out."""
    match_at, names = trigger_pattern(phrases).match, longest_first(phrases)
    heads = column.letter_heads
    codes = ((heads >> 14) & 0x7C00) | ((heads >> 11) & 0x3E0) | ((heads >> 8) & 0x1F)
    places = column.letter_starts[beginnings[codes]]
    rows = column.rows_of(places)
    found: dict[int, list[Event]] = {}
    row, end = -1, 0
    text, events = "", list[Event]()
    of_rows: list[int] = rows.tolist()
    for at, place in zip(of_rows, (places - column.offsets[rows]).tolist(), strict=True):
        if at != row:
            row, end = at, 0
            text, events = column.texts[at], []
        match = match_at(text, place) if place >= end else None
        if match:
            events.append(event_of(match, names, kind))
            end = match.end()
            found[row] = events
    return found


def may_repeat_words(column: TextColumn, times: int) -> set[int]:
    """Rows in which the same word, in any case, may stand so often in a row with no letter or digit between."""
    starts = column.letter_starts
    initials = column.flat[starts]
    joined = initials[1:] == initials[:-1]
    pairs = np.flatnonzero(joined)
    if len(pairs):
        bounds = np.stack([starts[pairs], starts[pairs + 1]], axis=1).ravel()
        joined[pairs] = ~np.logical_or.reduceat(_within(column.flat, "0", "9"), bounds)[::2]
    begins = runs(joined, times, np.searchsorted(starts, column.offsets))
    return column.odd.union(column.rows_of(starts[begins]).tolist())


def may_have_long_digits(column: TextColumn, length: int) -> set[int]:
    """Rows in which so many digits may stand in a row; ``length`` is a multiple of 10, of which one in ten is read."""
    digits = (column.flat[::10] - np.uint8(ord("0"))) < 10
    begins = runs(digits[1:] & digits[:-1], length // 10, -(-column.offsets // 10))
    return set(column.rows_of(10 * begins).tolist())


def may_repeat_lines(column: TextColumn, times: int) -> set[int]:
    """Rows in which the same line may stand so often in a row, blank lines and spaces around a line aside."""
    flat = column.flat
    ends = np.flatnonzero(flat == ord("\n"))
    signs = np.flatnonzero((flat < ord(" ")) & (flat != ord("\n")) & (flat != ord("\t")))
    suspects = column.odd.union(column.rows_of(signs).tolist())
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    starts = starts[ends > starts]
    heads = column.heads_at(starts)
    suspects.update(column.rows_of(starts[(heads >> 24) <= ord(" ")]).tolist())
    # Behind white space two lines that are the same may differ.
    for shift in (16, 8, 0):
        heads[((heads >> shift) & 0xFF) <= ord(" ")] &= np.uint32((0xFFFFFFFF << (shift + 8)) & 0xFFFFFFFF)
    begins = runs(heads[1:] == heads[:-1], times, np.searchsorted(starts, column.offsets))
    return suspects.union(column.rows_of(starts[begins]).tolist())


def runs(joined: npt.NDArray[np.bool_], times: int, cuts: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Where runs of at least so many values begin.

    Args:
        joined: whether each value but the first belongs to a run with the one before.
        cuts: where another text begins, over which no run goes; it is cut in place.
    """
    joined[cuts[(cuts > 0) & (cuts <= len(joined))] - 1] = False
    breaks = np.concatenate([[-1], np.flatnonzero(~joined), [len(joined)]])
    return breaks[:-1][np.diff(breaks) >= times] + 1
