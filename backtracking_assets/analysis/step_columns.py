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
_KIND, _WAITS, _LEFT, _OPERAND, _RESULT, _START, _END = range(7)
_COLUMNS = 7
_REMEMBERED = 100_000
"""Lines that are remembered from one table to the next."""
_TOGETHER = 24
"""Chains that are worth following side by side."""
_LOCK = threading.Lock()
"""Lines are remembered for all threads."""
_NO_OPERAND = np.iinfo(np.int64).min


class _Lines(dict[str, int]):
    """The number of each line, under which `columns` has what it says."""

    def __init__(self, strict: tuple[str, ...]) -> None:
        self.trigger = trigger_pattern(strict)
        self.columns = array("q")

    def __missing__(self, line: str) -> int:
        number = self[line] = len(self)
        self.columns.extend(_parsed(line, self.trigger))
        return number


@lru_cache(maxsize=4)
def _lines_known(strict: tuple[str, ...]) -> _Lines:
    return _Lines(strict)


def _parsed(line: str, trigger: re.Pattern[str]) -> tuple[int, int, int, int, int, int, int]:
    """What a line of a thought says: its kind, whether it begins with a trigger, the step and where that stands."""
    stripped = line.strip()
    if not stripped or stripped == THINK_OPEN:
        return _BLANK, 0, 0, 0, 0, 0, 0
    wait = trigger.match(stripped)
    match = parse_step(stripped, wait)
    if match is None:
        return _UNREADABLE, int(wait is not None), 0, 0, 0, 0, 0
    operand = int(match[3]) if match[2] == "+" else -int(match[3])
    lead = line.index(stripped)
    return (
        *(_STEP, int(wait is not None), int(match[1]), operand, int(match[4])),
        *(lead + match.start(1), lead + match.end()),
    )


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


def read_step_columns(texts: Sequence[str], questions: Sequence[str], rules: Detection) -> StepColumns:
    """`read_steps` of each text with its question, and `changed_redos`."""
    n = len(texts)
    thoughts = [text.partition(THINK_CLOSE) for text in texts]
    closed = np.array([bool(close) for _, close, _ in thoughts], dtype=bool)
    split = [thought.split("\n") for thought, _, _ in thoughts]
    lines = list(chain.from_iterable(split))
    n_lines = np.fromiter(map(len, split), dtype=np.int64, count=n)
    said = _said(lines, rules.strict)
    rows = np.repeat(np.arange(n), n_lines)

    # Blank lines are none.
    kept = np.flatnonzero(said[:, _KIND] != _BLANK)
    said, row = said[kept], rows[kept]
    waits, finished = said[:, _WAITS], np.ones(len(kept), dtype=bool)
    close_waits = int(trigger_pattern(rules.strict).match(THINK_CLOSE) is not None)
    followed = np.where(closed[row], close_waits, _UNDECIDED)
    within = row[1:] == row[:-1]
    followed[:-1][within] = waits[1:][within]
    torn = np.flatnonzero(np.isin(kept, np.cumsum(n_lines)[~closed] - 1))  # last lines of texts that were cut off
    finished[torn] = False
    for place in torn[waits[torn] == 0].tolist():
        if place > 0 and row[place - 1] == row[place] and may_become_trigger(lines[kept[place]].strip(), rules):
            followed[place - 1] = _UNDECIDED

    is_step = said[:, _KIND] == _STEP
    n_unreadable = np.bincount(row[~is_step & finished], minlength=n)
    lengths = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines)) + 1
    line_starts = np.cumsum(lengths) - lengths
    line_starts = line_starts - line_starts[(np.cumsum(n_lines) - n_lines)[rows]] if n else line_starts
    step_lines = kept[is_step]
    said, row, followed, waits = said[is_step], row[is_step], followed[is_step], waits[is_step]
    left, operand, result = said[:, _LEFT], said[:, _OPERAND], said[:, _RESULT]
    wrong = result != left + operand
    again = (row[1:] == row[:-1]) & (left[1:] == left[:-1]) & (operand[1:] == operand[:-1])
    corrected = again & wrong[:-1] & (followed[:-1] == 1) & ~wrong[1:]
    # For each completion: right steps, then wrong ones; of each not followed, followed by none and by a trigger.
    kinds = np.bincount(row * 6 + wrong * 3 + followed + 1, minlength=6 * n).reshape(n, 2, 3)
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
    redos = redos[[_is_redo(at, row, firsts, left, operand, result, questions) for at in redos.tolist()]]
    at = line_starts[step_lines]
    return StepColumns(firsts, at + said[:, _START], at + said[:, _END], redos, counts)


def _said(lines: Sequence[str], strict: tuple[str, ...]) -> Numbers:
    """What each line says, shape [lines, 7]."""
    with _LOCK:
        table = _lines_known(strict)
        if len(table) > _REMEMBERED:
            _lines_known.cache_clear()
            table = _lines_known(strict)
        numbers = np.fromiter(map(table.__getitem__, lines), dtype=np.int64, count=len(lines))
        return np.frombuffer(table.columns, dtype=np.int64).reshape(-1, _COLUMNS)[numbers]


def _is_redo(
    at: int,
    row: Numbers,
    firsts: Numbers,
    left: Numbers,
    operand: Numbers,
    result: Numbers,
    questions: Sequence[str],
) -> bool:
    """Whether a step of the same operation as the one before is no next operation of the problem."""
    if result[at - 1] != left[at - 1]:
        return True
    of_row = int(row[at])
    done = np.count_nonzero(operand[firsts[of_row] : firsts[of_row + 1]] == operand[at])
    return int(done) > operations_asked(questions[of_row])[int(operand[at])]


def _off_chain(
    firsts: Numbers, left: Numbers, operand: Numbers, result: Numbers, waits: Numbers, questions: Sequence[str]
) -> list[int | None]:
    """`n_off_chain_steps` of each completion: the chains are followed side by side, the longest ones to their end."""
    asked = [chain_asked(question) for question in questions]
    found: list[int | None] = [None if chain is None else 0 for chain in asked]
    n_steps = np.diff(firsts)
    order = np.array([row for row, chain in enumerate(asked) if chain is not None], dtype=np.int64)
    order = order[np.argsort(-n_steps[order], kind="stable")]
    chains = [asked[row] or (0, ()) for row in order.tolist()]
    # Every chain's operands with none on either side, so that the last and the next one can always be looked up.
    operands = np.array([o for _, own in chains for o in (_NO_OPERAND, *own, _NO_OPERAND)], dtype=np.int64)
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
