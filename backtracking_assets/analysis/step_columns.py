"""The steps of many completions at once, by the definitions of `arithmetic_steps`, as columns.

Lines recur from completion to completion, so each is parsed once and the rest is counted in arrays.
"""

import re
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import numpy.typing as npt

from backtracking_assets.analysis.arithmetic_steps import (
    THINK_CLOSE,
    THINK_OPEN,
    after_slip,
    chain_asked,
    count_off_chain,
    may_become_trigger,
    operations_asked,
    parse_step,
)
from backtracking_assets.analysis.triggers import trigger_pattern
from backtracking_assets.experiment_sections import Detection

Numbers = npt.NDArray[np.int64]

_UNDECIDED = -1
_BLANK, _UNREADABLE, _STEP = 0, 1, 2
_REMEMBERED = 100_000
"""Lines that are remembered from one table to the next."""
_TOGETHER = 24
"""Chains that are worth following side by side."""
_LOCK = threading.Lock()
"""Lines are remembered for all threads."""
_NO_OPERAND = np.iinfo(np.int64).min


class _Lines(dict[str, int]):
    """The number of each line, at which the columns have what it says."""

    def __init__(self, strict: tuple[str, ...]) -> None:
        self.trigger = trigger_pattern(strict)
        self.kinds, self.waits = array("b"), array("b")
        self.left, self.operand, self.result = array("q"), array("q"), array("q")
        # Characters of the line between which its arithmetic stands.
        self.starts, self.ends = array("i"), array("i")

    def __missing__(self, line: str) -> int:
        kind, waits, step, span = _parsed(line, self.trigger)
        self.kinds.append(kind)
        self.waits.append(waits)
        for column, value in zip((self.left, self.operand, self.result), step, strict=True):
            column.append(value)
        self.starts.append(span[0])
        self.ends.append(span[1])
        number = self[line] = len(self)
        return number


@lru_cache(maxsize=4)
def _lines_known(strict: tuple[str, ...]) -> _Lines:
    return _Lines(strict)


def _parsed(line: str, trigger: re.Pattern[str]) -> tuple[int, bool, tuple[int, int, int], tuple[int, int]]:
    """What a line of a thought says: its kind, whether it begins with a trigger, the step and where that stands."""
    stripped = line.strip()
    if not stripped or stripped == THINK_OPEN:
        return _BLANK, False, (0, 0, 0), (0, 0)
    wait = trigger.match(stripped)
    match = parse_step(stripped, wait)
    if match is None:
        return _UNREADABLE, wait is not None, (0, 0, 0), (0, 0)
    operand = int(match[3]) if match[2] == "+" else -int(match[3])
    lead = line.index(stripped)
    span = lead + match.start(1), lead + match.end()
    return _STEP, wait is not None, (int(match[1]), operand, int(match[4])), span


@dataclass(frozen=True, slots=True)
class StepColumns:
    """The steps of a table's completions one behind another, and the counts of each completion."""

    firsts: Numbers
    """Where each completion's steps begin in the arrays below, shape [completions + 1]."""
    starts: Numbers
    """Characters of the completion's text, as in `Step`."""
    ends: Numbers
    redos: Numbers
    """The steps that `changed_redos` gives, by their place in the arrays above, in rising order."""
    counts: dict[str, list[int] | list[int | None]]
    """A column for each count of `Steps`."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What the lines of all texts say that are not blank; `step` and `span` have elements of the steps alone."""

    lines: Numbers
    """Which of all lines each is."""
    kinds: npt.NDArray[np.int8]
    waits: npt.NDArray[np.int8]
    left: Numbers
    operand: Numbers
    result: Numbers
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]


def read_step_columns(texts: Sequence[str], questions: Sequence[str], rules: Detection) -> StepColumns:
    """`read_steps` of each text with its question, and `changed_redos`."""
    n = len(texts)
    thoughts = [text.partition(THINK_CLOSE) for text in texts]
    closed = np.array([bool(close) for _, close, _ in thoughts], dtype=bool)
    split = [thought.split("\n") for thought, _, _ in thoughts]
    lines = list(chain.from_iterable(split))
    lasts = np.cumsum(np.fromiter(map(len, split), dtype=np.int32, count=n), dtype=np.int32)
    said = _said(lines, rules.strict)
    row = np.searchsorted(lasts, said.lines, side="right").astype(np.int32)

    close_waits = trigger_pattern(rules.strict).match(THINK_CLOSE) is not None
    followed = np.where(closed, np.int8(close_waits), np.int8(_UNDECIDED))[row]
    np.copyto(followed[:-1], said.waits[1:], where=row[1:] == row[:-1])
    finished = np.ones(len(row), dtype=bool)
    for place in _torn_lines(said.lines, lasts[~closed] - 1):
        finished[place] = False
        may_be = not said.waits[place] and may_become_trigger(lines[said.lines[place]].strip(), rules)
        if may_be and place > 0 and row[place - 1] == row[place]:
            followed[place - 1] = _UNDECIDED
    is_step = said.kinds == _STEP
    n_unreadable = np.bincount(row[~is_step & finished], minlength=n)

    row, followed, waits = row[is_step], followed[is_step], said.waits[is_step]
    left, operand, result = said.left, said.operand, said.result
    wrong = result != left + operand
    again = (row[1:] == row[:-1]) & (left[1:] == left[:-1]) & (operand[1:] == operand[:-1])
    corrected = again & wrong[:-1] & (followed[:-1] == 1) & ~wrong[1:]
    # For each completion: right steps, then wrong ones; of each not followed, followed by none and by a trigger.
    kinds = np.bincount(row * 6 + (wrong * np.int8(3) + followed + 1), minlength=6 * n).reshape(n, 2, 3)
    firsts = np.searchsorted(row, np.arange(n + 1))
    counts: dict[str, list[int] | list[int | None]] = {
        "n_steps": kinds.sum(axis=(1, 2)).tolist(),
        "n_wrong_steps": kinds[:, 1].sum(axis=1).tolist(),
        "n_wrong_steps_followed": kinds[:, 1, 1:].sum(axis=1).tolist(),
        "n_right_steps_followed": kinds[:, 0, 1:].sum(axis=1).tolist(),
        "n_waits_after_wrong_step": kinds[:, 1, 2].tolist(),
        "n_waits_after_right_step": kinds[:, 0, 2].tolist(),
        "n_corrected_steps": np.bincount(row[1:][corrected], minlength=n).tolist(),
        "n_unreadable_lines": n_unreadable.tolist(),
        "n_off_chain_steps": _off_chain(firsts, left, operand, result, waits, questions),
    }
    redos = np.flatnonzero(again & (result[1:] != result[:-1])) + 1
    kept_total = result[redos - 1] == left[redos - 1]
    is_redo = ~kept_total
    for number in np.flatnonzero(kept_total).tolist():
        at = redos[number]
        done = np.count_nonzero(operand[firsts[row[at]] : firsts[row[at] + 1]] == operand[at])
        is_redo[number] = done > operations_asked(questions[row[at]])[int(operand[at])]
    ends_of_lines = np.cumsum(np.fromiter(map(len, lines), dtype=np.int32, count=len(lines)) + np.int32(1))
    line_starts = np.concatenate([[0], ends_of_lines])
    text_starts = line_starts[np.concatenate([[0], lasts])]
    at = line_starts[said.lines[is_step]] - text_starts[row]
    return StepColumns(firsts, at + said.starts, at + said.ends, redos[is_redo], counts)


def _torn_lines(lines: Numbers, lasts: Numbers) -> list[int]:
    """Places in ``lines`` of those that end a text which was cut off."""
    places = np.searchsorted(lines, lasts)
    within = places < len(lines)
    return places[within][lines[places[within]] == lasts[within]].tolist()


def _said(lines: Sequence[str], strict: tuple[str, ...]) -> _Said:
    with _LOCK:
        table = _lines_known(strict)
        if len(table) > _REMEMBERED:
            _lines_known.cache_clear()
            table = _lines_known(strict)
        numbers = np.fromiter(map(table.__getitem__, lines), dtype=np.int32, count=len(lines))
        kinds = np.frombuffer(table.kinds, dtype=np.int8)[numbers]
        kept = np.flatnonzero(kinds != _BLANK)
        numbers, kinds = numbers[kept], kinds[kept]
        waits = np.frombuffer(table.waits, dtype=np.int8)[numbers]
        steps = numbers[kinds == _STEP]
        left, operand, result = (
            np.frombuffer(column, dtype=np.int64)[steps] for column in (table.left, table.operand, table.result)
        )
        starts, ends = (np.frombuffer(column, dtype=np.int32)[steps] for column in (table.starts, table.ends))
        return _Said(kept, kinds, waits, left, operand, result, starts, ends)


@lru_cache(maxsize=4096)
def _fenced(operands: tuple[int, ...]) -> Numbers:
    """Operands with none on either side, so that the last and the next one can always be looked up."""
    return np.array([_NO_OPERAND, *operands, _NO_OPERAND], dtype=np.int64)


def _off_chain(
    firsts: Numbers,
    left: Numbers,
    operand: Numbers,
    result: Numbers,
    waits: npt.NDArray[np.int8],
    questions: Sequence[str],
) -> list[int | None]:
    """`n_off_chain_steps` of each completion: the chains are followed side by side, the longest ones to their end."""
    asked = [chain_asked(question) for question in questions]
    found: list[int | None] = [None if own is None else 0 for own in asked]
    n_steps = np.diff(firsts)
    order = np.array([row for row, own in enumerate(asked) if own is not None], dtype=np.int64)
    order = order[np.argsort(-n_steps[order], kind="stable")]
    chains = [asked[row] or (0, ()) for row in order.tolist()]
    operands = np.concatenate([_fenced(own) for _, own in chains] or [_fenced(())])
    sizes = np.array([len(own) + 2 for _, own in chains], dtype=np.int64)
    last = np.cumsum(sizes) - sizes  # place of each chain's last operation that was done
    total = np.array([start for start, _ in chains], dtype=np.int64)
    before, done = np.zeros_like(total), np.zeros_like(total)
    first, n_steps, n_off = firsts[order], n_steps[order], np.zeros_like(total)
    for step in range(int(n_steps.max(initial=0))):
        active = int(np.searchsorted(-n_steps, -step))
        if active < _TOGETHER:
            for number in range(active):
                rest = slice(first[number] + step, first[number] + n_steps[number])
                moves = zip(*(column[rest].tolist() for column in (left, operand, result, waits)), strict=True)
                state = int(before[number]), int(total[number]), int(done[number])
                n_off[number] += count_off_chain(moves, chains[number][1], *state)
            break
        at = first[:active] + step
        of_left, of_operand, of_wait = left[at], operand[at], waits[at] == 1
        place = last[:active] + done[:active]
        again = (of_left == before[:active]) & (of_operand == operands[place])
        next_one = (of_left == total[:active]) & (of_operand == operands[place + 1]) & ~(again & of_wait)
        done[:active] += next_one
        off = np.flatnonzero(~(next_one | again))
        n_off[off] += 1
        for number in off.tolist():
            slip = int(of_operand[number]), chains[number][1], int(done[number]), bool(of_wait[number])
            done[number] = after_slip(*slip)
        before[:active], total[:active] = of_left, result[at]
    for row, count in zip(order.tolist(), n_off.tolist(), strict=True):
        found[row] = count
    return found
