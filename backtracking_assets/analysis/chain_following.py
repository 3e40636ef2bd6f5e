"""How many steps of each completion are off the problem's chain, of many completions at once."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backtracking_assets.analysis.arithmetic_steps import after_slip, chain_asked, count_off_chain
from backtracking_assets.analysis.text_columns import Numbers

_TOGETHER = 24
"""Chains that are worth following side by side."""
_NO_OPERAND = np.iinfo(np.int64).min


@lru_cache(maxsize=4096)
def _fenced(operands: tuple[int, ...]) -> Numbers:
    """Operands with none on either side, so that the last and the next one can always be looked up."""
    return np.array([_NO_OPERAND, *operands, _NO_OPERAND], dtype=np.int64)


class Moves(NamedTuple):
    """What each step says, and whether it begins with a strict trigger."""

    left: Numbers
    operand: Numbers
    result: Numbers
    waits: Numbers


def off_chain_counts(
    firsts: Numbers,
    rows: Numbers,
    again: npt.NDArray[np.bool_],
    moves: Moves,
    questions: Sequence[str],
) -> list[int | None]:
    """`n_off_chain_steps` of each completion.

    Args:
        firsts: where each completion's steps begin, shape [completions + 1].
        rows: the completion of each step.
        again: of each step but the first, whether it is the operation of the one before, of the same completion.
    """
    asked = [chain_asked(question) for question in questions]
    found: list[int | None] = [None if own is None else 0 for own in asked]
    slips = _may_slip(firsts, rows, again, moves, asked)
    order = np.array([row for row in slips if asked[row] is not None], dtype=np.int64)
    if len(order):
        counted = _followed(order, firsts, moves, asked)
        for row, count in counted:
            found[row] = count
    return found


_Asked = tuple[int, tuple[int, ...]] | None


def _may_slip(
    firsts: Numbers,
    rows: Numbers,
    again: npt.NDArray[np.bool_],
    moves: Moves,
    asked: Sequence[_Asked],
) -> list[int]:
    """Completions that have a step off the chain, or one that can be taken for the next operation and the last one."""
    if not len(rows):
        return []
    left, operand, result, waits = moves
    fenced = [_fenced(() if own is None else own[1]) for own in asked]
    sizes = np.fromiter(map(len, fenced), dtype=np.int64, count=len(fenced))
    starts = np.array([0 if own is None else own[0] for own in asked], dtype=np.int64)
    # As long as no step is off the chain, each that is not the last one again is the next one.
    redone = np.concatenate([[False], again])
    done = np.cumsum(~redone)
    begun = firsts[:-1][np.diff(firsts) > 0]
    before = np.zeros(len(firsts) - 1, dtype=np.int64)
    before[rows[begun]] = done[begun] - 1
    done -= before[rows]  # this step included
    total = np.empty_like(result)
    total[1:] = result[:-1]
    total[begun] = starts[rows[begun]]
    next_one = np.concatenate(fenced)[(np.cumsum(sizes) - sizes)[rows] + np.minimum(done, sizes[rows] - 1)]
    follows = left == total
    on_chain = np.where(redone, ~follows | (waits == 1), follows & (operand == next_one))
    return np.unique(rows[~on_chain]).tolist()


def _followed(
    order: Numbers,
    firsts: Numbers,
    moves: Moves,
    asked: Sequence[_Asked],
) -> list[tuple[int, int]]:
    """Some completions and their counts: the chains are followed side by side, the longest ones to their end."""
    left, operand, result, waits = moves
    n_steps = np.diff(firsts)
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
                further = zip(*(column[rest].tolist() for column in moves), strict=True)
                state = int(before[number]), int(total[number]), int(done[number])
                n_off[number] += count_off_chain(further, chains[number][1], *state)
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
    return list(zip(order.tolist(), n_off.tolist(), strict=True))
