"""What the lines of arithmetic chains say, each line parsed once.

Lines recur from completion to completion. A line of up to 32 characters is looked up by its characters in arrays, all
lines of a table at once; any other one, and whatever is new, by a dictionary.
"""

import re
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from backtracking_assets.analysis.arithmetic_steps import THINK_OPEN, parse_step
from backtracking_assets.analysis.text_columns import PADDING, Numbers, words_at
from backtracking_assets.analysis.triggers import trigger_pattern

BLANK, UNREADABLE, STEP = 0, 1, 2
_NOTHING = (BLANK, 0, 0, 0, 0, 0, 0)

_REMEMBERED = 100_000
"""Lines that are remembered from one table to the next."""
_SLOT_BITS = 18
_WORDS = PADDING // 8
"""Of eight characters, by which a line is looked up."""
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], dtype=np.uint64)
_LOCK = threading.Lock()
"""Lines are remembered for all threads."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Where the lines of many texts stand."""

    plain: bytes
    """All texts, a character a byte, `PADDING` zeros behind them; a `?` for every character outside ASCII."""
    starts: Numbers
    ends: Numbers
    texts: Sequence[str]
    rows: Numbers
    """The text of each line."""
    offsets: Numbers
    """Where each text starts in ``plain``."""
    in_ascii: npt.NDArray[np.bool_]
    """Whether each text is; shape [texts]."""

    def at(self, line: int) -> str:
        """The characters of a line."""
        row = int(self.rows[line])
        return self.texts[row][self.starts[line] - self.offsets[row] : self.ends[line] - self.offsets[row]]


@dataclass(frozen=True, slots=True)
class Said:
    """What the lines say that are not blank."""

    lines: Numbers
    """Which of all lines each one that is not blank is."""
    kinds: Numbers
    waits: Numbers
    """Whether each begins with a strict trigger."""
    # From here on, of steps alone.
    left: Numbers
    operand: Numbers
    result: Numbers
    starts: Numbers
    """Characters of the line."""
    ends: Numbers


class _KnownLines(dict[str, int]):
    """The number of each line, at which the table has what it says. Number 0 is no line."""

    def __init__(self, strict: tuple[str, ...]) -> None:
        self.trigger = trigger_pattern(strict)
        self.flat = array("q", _NOTHING)
        # By which lines are looked up in arrays: their number by a slot, and their characters by their number.
        self.slots = np.zeros(2**_SLOT_BITS, dtype=np.int32)
        self.words = [np.zeros(_REMEMBERED, dtype=np.uint64) for _ in range(_WORDS)]
        self.lengths = np.full(_REMEMBERED, -1, dtype=np.int32)

    def __missing__(self, line: str) -> int:
        # By the table and not by the lines: an interruption between the two may leave a row that no line has.
        number = len(self.flat) // len(_NOTHING)
        self.flat.extend(array("q", _parsed(line, self.trigger)))  # an array is added whole or not at all
        self[line] = number
        return number

    def table(self) -> npt.NDArray[np.int64]:
        """What each line says, as `_parsed` gives it, shape [lines + 1, 7]. To be let go before a line is added."""
        return np.frombuffer(self.flat, dtype=np.int64).reshape(-1, len(_NOTHING))

    def numbers_of(self, lines: Lines) -> Numbers:
        """The number of each line."""
        lengths = lines.ends - lines.starts
        words = [words_at(lines.plain, lines.starts, lengths)]
        longer = np.flatnonzero(lengths > 8)
        for place in range(1, _WORDS):
            longer = longer[lengths[longer] > 8 * place]
            if not len(longer):
                break
            further = np.zeros(len(lengths), dtype=np.uint64)
            further[longer] = words_at(lines.plain, lines.starts[longer] + 8 * place, lengths[longer] - 8 * place)
            words.append(further)
        slots = _slots(words)
        numbers = self.slots[slots]
        known = self.lengths[numbers] == lengths
        for column, own in zip(self.words, words, strict=False):  # lines of one length have zeros alike
            known &= column[numbers] == own
        if not lines.in_ascii.all():
            known &= lines.in_ascii[lines.rows]
        unknown = np.flatnonzero(~known)
        numbers[unknown] = [self[lines.at(line)] for line in unknown.tolist()]
        short = unknown[(lengths[unknown] <= PADDING) & lines.in_ascii[lines.rows[unknown]]]
        self._remember(numbers[short], slots[short], lengths[short], [own[short] for own in words])
        return numbers

    def _remember(
        self, numbers: Numbers, slots: Numbers, lengths: Numbers, words: Sequence[npt.NDArray[np.uint64]]
    ) -> None:
        """Let lines be found in arrays from now on; one whose slot is taken goes on being found by the dictionary."""
        free = (numbers < _REMEMBERED) & (self.slots[slots] == 0)
        self.lengths[numbers[free]] = lengths[free]
        for column, own in zip(self.words, words, strict=False):
            column[numbers[free]] = own[free]
        self.slots[slots[free]] = numbers[free]  # last: until then nothing is found by what is half written


def _slots(words: Sequence[npt.NDArray[np.uint64]]) -> Numbers:
    """Where a line has its place, by its characters."""
    mixed = words[0] * _FACTORS[0]
    for word, factor in zip(words[1:], _FACTORS[1:], strict=False):
        mixed ^= word * factor
    mixed ^= mixed >> np.uint64(32)
    mixed *= _FACTORS[0]
    return (mixed >> np.uint64(64 - _SLOT_BITS)).astype(np.int64)


@lru_cache(maxsize=4)
def _known(strict: tuple[str, ...]) -> _KnownLines:
    return _KnownLines(strict)


def _parsed(line: str, trigger: re.Pattern[str]) -> tuple[int, ...]:
    """What a line of a thought says: its kind, whether it begins with a trigger, the step's three numbers, and the
    characters of the line between which its arithmetic stands."""
    stripped = line.strip()
    if not stripped or stripped == THINK_OPEN:
        return _NOTHING
    wait = trigger.match(stripped)
    match = parse_step(stripped, wait)
    if match is None:
        return UNREADABLE, wait is not None, 0, 0, 0, 0, 0
    left, sign, operand, result = match.groups()
    lead = 0 if stripped is line else line.index(stripped)
    operand = int(operand) if sign == "+" else -int(operand)
    return STEP, wait is not None, int(left), operand, int(result), lead + match.start(1), lead + match.end()


def read_lines(lines: Lines, strict: tuple[str, ...]) -> Said:
    """What the lines say by the definitions of `arithmetic_steps`."""
    with _LOCK:
        known = _known(strict)
        if len(known) > _REMEMBERED:
            _known.cache_clear()
            known = _known(strict)
        numbers = known.numbers_of(lines)
        table = known.table()
        kinds = table[:, 0][numbers]
        kept = np.flatnonzero(kinds != BLANK)
        numbers, kinds = numbers[kept], kinds[kept]
        steps = table[numbers[kinds == STEP]]
        return Said(kept, kinds, table[:, 1][numbers], *steps.T[2:])
