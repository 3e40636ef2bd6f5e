"""Where the words stand with which the patterns of `revisions` begin, found in many texts at once.

A cue is a word, or a word and the next one, with which a match begins; a pattern without one matches nowhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from backtracking_assets.analysis.text_columns import TextColumn

_VERDICTS = ("s", "is", "was", "would", "not", "wrong", "incorrect", "off", "way", "too")
_SLIPS = ("multiplied", "added", "subtracted", "divided", "used", "counted", "took")
_ADMITTED = ("misread", "miscounted", "miscalculated", "forgot", "missed", "overlooked", "misunderstood", "mixed")
_BETTER = ("better", "easier", "quicker", "simpler", "faster")


@dataclass(frozen=True)
class _Cue:
    pattern: str
    words: tuple[str, ...]
    next_words: tuple[str, ...] = ()
    """Any of these must be the next word; none: any may."""
    behind_sign: bool = False
    """Whether the match may begin at a sign before the word, with up to nine white space between."""


_CUES = (
    _Cue("doubt", ("that", "this", "it", "something", "which"), _VERDICTS),
    _Cue("doubt", ("that", "this", "it"), ("isn", "can", "cannot", "doesn", "does")),
    _Cue("doubt", ("it", "that", "this", "which", "answer", "total"), ("should",)),
    _Cue("doubt", ("no", "rather", "sorry"), behind_sign=True),
    _Cue("doubt", ("i",), ("mean", *_SLIPS)),
    _Cue("doubt", ("swap",), ("that",)),
    _Cue("doubt", ("the",), ("other",)),
    _Cue("doubt", ("let",), ("me",)),
    _Cue("retraction", ("oops", "correction")),
    _Cue("retraction", ("scratch",), ("that",)),
    _Cue("retraction", ("my",), ("bad",)),
    _Cue("retraction", ("on",), ("second",)),
    _Cue("retraction", ("i",), (*_ADMITTED, "messed")),
    _Cue("approach", _BETTER, ("approach", "way", "method", "idea", "to")),
    _Cue("approach", ("different", "other", "another"), ("approach", "way", "method")),
    _Cue("approach", ("start",), ("over",)),
    _Cue("approach", ("from",), ("scratch",)),
    _Cue("approach", ("scratch",), ("that",)),
    _Cue("approach", ("instead",)),
    _Cue("replaced", ("not",), behind_sign=True),
    _Cue("replaced", ("and",), ("not",), behind_sign=True),
    _Cue("replaced", ("instead",), ("of",)),
    _Cue("replaced", ("rather",), ("than",)),
    _Cue("confirms", ("yes", "matches", "stays", "agree")),
    _Cue("confirms", ("that", "it"), ("s", "works", "matches")),
    _Cue("confirms", ("is", "are"), ("right", "correct", "fine")),
    _Cue("confirms", ("checks",), ("out",)),
    _Cue("confirms", ("makes",), ("sense",)),
    _Cue("confirms", ("the",), ("same",)),
    _Cue("confirms", ("no",), ("trick",)),
    _Cue("not but", ("not",)),
    _Cue("instead", ("instead",)),
)
_FARTHEST_SIGN = 10
_SLOTS_BITS = 12


def _key(word: str) -> int:
    """A word's first four letters."""
    return int.from_bytes(word[:4].encode().ljust(4, b"\0"), "big")


def _without_collisions(keys: Sequence[int]) -> int:
    """A factor by which keys spread over all slots but the first, no two in one."""
    for factor in range(2_654_435_761, 2**32, 2):
        slots = {(key * factor % 2**32) >> (32 - _SLOTS_BITS) for key in keys}
        if len(slots) == len(keys) and 0 not in slots:
            return factor
    raise AssertionError("no factor spreads the words")


_WORDS = sorted({_key(word) for cue in _CUES for word in (*cue.words, *cue.next_words)})
_FACTOR = np.uint32(_without_collisions(_WORDS))


def _slots(keys: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    return (keys * _FACTOR) >> np.uint32(32 - _SLOTS_BITS)


_SLOT_KEYS = np.zeros(2**_SLOTS_BITS, dtype=np.uint32)
_SLOT_KEYS[_slots(np.array(_WORDS, dtype=np.uint32))] = _WORDS
_FIRST = np.zeros(2**_SLOTS_BITS, dtype=np.uint64)
_NEXT = np.zeros(2**_SLOTS_BITS, dtype=np.uint64)
for _bit, _cue in enumerate(_CUES):
    _FIRST[_slots(np.array([_key(word) for word in _cue.words], dtype=np.uint32))] |= np.uint64(1 << _bit)
    if _cue.next_words:
        _NEXT[_slots(np.array([_key(word) for word in _cue.next_words], dtype=np.uint32))] |= np.uint64(1 << _bit)
_ALONE = np.uint64(sum(1 << bit for bit, cue in enumerate(_CUES) if not cue.next_words))

Cues = dict[str, list[int]]
"""For each pattern that may match, the characters at which a match may begin, in rising order."""


@lru_cache(maxsize=1024)
def _meant(bits: int) -> tuple[tuple[str, bool], ...]:
    """The patterns of the cues that were met, each with whether it may begin at a sign before the word."""
    met: dict[str, bool] = {}
    for bit, cue in enumerate(_CUES):
        if bits >> bit & 1:
            met[cue.pattern] = met.get(cue.pattern, False) or cue.behind_sign
    return tuple(met.items())


def cues_of(column: TextColumn) -> list[Cues | None]:
    """The cues of each text; None where any pattern may match anywhere."""
    keys = column.word_keys
    slots = _slots(keys)
    known = np.where(_SLOT_KEYS[slots] == keys, slots, 0)
    met = _FIRST[known]
    met[:-1] &= _NEXT[known[1:]] | _ALONE
    hits = np.flatnonzero(met)
    places = column.word_starts[hits]
    rows = column.rows_of(places)
    found: list[Cues | None] = [None if row in column.odd else {} for row in range(len(column.texts))]
    characters = places - column.offsets[rows]
    for row, place, bits in zip(rows.tolist(), characters.tolist(), met[hits].tolist(), strict=True):
        cues = found[row]
        if cues is None:
            continue
        for pattern, behind_sign in _meant(bits):
            own = cues.setdefault(pattern, [])
            if behind_sign:
                own += _signs_before(column.texts[row], place)
            own.append(place)
    return found


def _signs_before(text: str, place: int) -> list[int]:
    """Where a sign may stand that is parted from a place by nothing but white space."""
    begin = place - 1
    while begin > 0 and begin > place - _FARTHEST_SIGN and text[begin].isspace():
        begin -= 1
    return list(range(max(begin, 0), place))
