"""The steps of many completions at once, by the definitions of `arithmetic_steps`, as columns.

Lines recur from completion to completion, so each is parsed once and the rest is counted in arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backtracking_assets.analysis.arithmetic_steps import THINK_CLOSE, may_become_trigger, operations_asked
from backtracking_assets.analysis.chain_following import Moves, off_chain_counts
from backtracking_assets.analysis.known_lines import STEP, Lines, read_lines
from backtracking_assets.analysis.text_columns import PADDING, Numbers
from backtracking_assets.analysis.triggers import trigger_pattern
from backtracking_assets.experiment_sections import Detection

_UNDECIDED = -1


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
    counts: dict[str, Numbers | list[int | None]]
    """A column for each count of `Steps`."""


def read_step_columns(texts: Sequence[str], questions: Sequence[str], rules: Detection) -> StepColumns:
    """`read_steps` of each text with its question, and `changed_redos`."""
    n = len(texts)
    lines, lasts, closed = _lines_of(texts)
    said = read_lines(lines, rules.strict)
    row = lines.rows[said.lines]

    close_waits = trigger_pattern(rules.strict).match(THINK_CLOSE) is not None
    followed = np.where(closed, np.int8(close_waits), np.int8(_UNDECIDED))[row]
    np.copyto(followed[:-1], said.waits[1:], where=row[1:] == row[:-1])
    finished = np.ones(len(row), dtype=bool)
    for place in _torn_lines(said.lines, lasts[~closed] - 1):
        finished[place] = False
        may_be = not said.waits[place] and may_become_trigger(lines.at(said.lines[place]).strip(), rules)
        if may_be and place > 0 and row[place - 1] == row[place]:
            followed[place - 1] = _UNDECIDED
    is_step = said.kinds == STEP
    n_unreadable = np.bincount(row[~is_step & finished], minlength=n)

    row, followed, waits = row[is_step], followed[is_step], said.waits[is_step]
    left, operand, result = said.left, said.operand, said.result
    wrong = result != left + operand
    again = (row[1:] == row[:-1]) & (left[1:] == left[:-1]) & (operand[1:] == operand[:-1])
    corrected = again & wrong[:-1] & (followed[:-1] == 1) & ~wrong[1:]
    # For each completion: right steps, then wrong ones; of each not followed, followed by none and by a trigger.
    kinds = np.bincount(row * 6 + (wrong * np.int8(3) + followed + 1), minlength=6 * n).reshape(n, 2, 3)
    firsts = np.searchsorted(row, np.arange(n + 1))
    counts: dict[str, Numbers | list[int | None]] = {
        "n_steps": kinds.sum(axis=(1, 2)),
        "n_wrong_steps": kinds[:, 1].sum(axis=1),
        "n_wrong_steps_followed": kinds[:, 1, 1:].sum(axis=1),
        "n_right_steps_followed": kinds[:, 0, 1:].sum(axis=1),
        "n_waits_after_wrong_step": kinds[:, 1, 2],
        "n_waits_after_right_step": kinds[:, 0, 2],
        "n_corrected_steps": np.bincount(row[1:][corrected], minlength=n),
        "n_unreadable_lines": n_unreadable,
        "n_off_chain_steps": off_chain_counts(firsts, row, again, Moves(left, operand, result, waits), questions),
    }
    redos = np.flatnonzero(again & (result[1:] != result[:-1])) + 1
    kept_total = result[redos - 1] == left[redos - 1]
    is_redo = ~kept_total
    for number in np.flatnonzero(kept_total).tolist():
        of_row, shown = int(row[redos[number]]), int(operand[redos[number]])
        done = np.count_nonzero(operand[firsts[of_row] : firsts[of_row + 1]] == shown)
        is_redo[number] = done > operations_asked(questions[of_row])[shown]
    at = (lines.starts - lines.offsets[lines.rows])[said.lines[is_step]]
    return StepColumns(firsts, at + said.starts, at + said.ends, redos[is_redo], counts)


def _lines_of(texts: Sequence[str]) -> tuple[Lines, Numbers, npt.NDArray[np.bool_]]:
    """The lines of each text up to ``</think>``, how many there are up to each text's last, and which texts have it."""
    closes = [text.find(THINK_CLOSE) for text in texts]
    plain = [
        (text if close < 0 else text[:close]).encode("ascii", "replace")
        for text, close in zip(texts, closes, strict=True)
    ]
    joined = b"\n".join([*plain, bytes(PADDING)])
    ends = np.flatnonzero(np.frombuffer(joined, dtype=np.uint8) == ord("\n"))
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + 1
    sizes = np.fromiter(map(len, plain), dtype=np.int64, count=len(texts)) + 1
    offsets = np.cumsum(sizes) - sizes
    lasts = np.searchsorted(ends, offsets + sizes - 1) + 1
    rows = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(lasts, prepend=0))
    in_ascii = np.fromiter(map(str.isascii, texts), dtype=bool, count=len(texts))
    return Lines(joined, starts, ends, texts, rows, offsets, in_ascii), lasts, np.array(closes, dtype=np.int64) >= 0


def _torn_lines(lines: Numbers, lasts: Numbers) -> list[int]:
    """Places in ``lines`` of those that end a text which was cut off."""
    places = np.searchsorted(lines, lasts)
    within = places < len(lines)
    return places[within][lines[places[within]] == lasts[within]].tolist()
