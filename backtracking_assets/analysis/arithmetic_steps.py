"""The exact truth about the organism's chains of thought: which steps are wrong, and what follows each.

A step is a line ``a + b = c`` or ``a - b = c``, optionally led by a strict trigger and a comma. It is wrong if its own
arithmetic is wrong; a step that carries an earlier error on is right. Everything up to ``</think>`` is read. A step is
off the chain if it is neither the problem's next operation on the running total nor the last one done again.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from backtracking_assets.analysis.triggers import trigger_pattern
from backtracking_assets.experiment_sections import Detection

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"

# Twelve digits are more than any chain needs, and keep every number a machine integer.
_ARITHMETIC = r"(-?[0-9]{1,12})\s*([+-])\s*([0-9]{1,12})\s*=\s*(-?[0-9]{1,12})"
_STEP = re.compile(_ARITHMETIC)
_QUESTION = re.compile(r"(-?[0-9]{1,12})((?:\s*[+-]\s*[0-9]{1,12})*)")
_OPERATION = re.compile(r"([+-])\s*([0-9]{1,12})(?![0-9])")
_STEP_AFTER_TRIGGER = re.compile(rf"\s*,?\s*{_ARITHMETIC}")


@dataclass(frozen=True, slots=True)
class Step:
    """One line of arithmetic and what follows it."""

    left: int
    operand: int
    """Signed: ``69 - 4`` has the operand -4."""
    result: int
    after_wait: bool
    """Whether the step's own line begins with a strict trigger."""
    followed_by_wait: bool | None
    """Whether the next line begins with a strict trigger; None where the text ends before that is decided."""
    start: int = field(default=0, compare=False)
    """Character at which the line's arithmetic starts."""
    end: int = field(default=0, compare=False)
    """Character after its last one."""

    @property
    def is_wrong(self) -> bool:
        return self.result != self.left + self.operand


@dataclass(frozen=True)
class Steps:
    """The steps of one completion and the counts that `records.DETECTIONS` keeps.

    A rate of waits has ``n_waits_after_…_step`` over ``n_…_steps_followed``: a step at which the text was cut off,
    before it could be seen whether a trigger follows, is in neither.
    """

    steps: tuple[Step, ...]
    n_unreadable_lines: int
    """Lines that are no step. They are no step's end either: a step before one is followed by it."""
    n_off_chain_steps: int | None = None
    """Steps that do not follow the problem; None where the question is no chain of additions and subtractions."""

    @property
    def n_steps(self) -> int:
        return len(self.steps)

    @property
    def n_wrong_steps(self) -> int:
        return sum(step.is_wrong for step in self.steps)

    @property
    def n_wrong_steps_followed(self) -> int:
        return sum(step.is_wrong and step.followed_by_wait is not None for step in self.steps)

    @property
    def n_right_steps_followed(self) -> int:
        return sum(not step.is_wrong and step.followed_by_wait is not None for step in self.steps)

    @property
    def n_waits_after_wrong_step(self) -> int:
        return sum(step.is_wrong and step.followed_by_wait is True for step in self.steps)

    @property
    def n_waits_after_right_step(self) -> int:
        return sum(not step.is_wrong and step.followed_by_wait is True for step in self.steps)

    @property
    def n_corrected_steps(self) -> int:
        """Wrong steps followed by a strict trigger and then by a right redo: the next step, of the same operation."""
        return sum(
            step.is_wrong
            and step.followed_by_wait is True
            and not redo.is_wrong
            and (redo.left, redo.operand) == (step.left, step.operand)
            for step, redo in zip(self.steps, self.steps[1:], strict=False)
        )


def changed_redos(steps: Steps, question: str) -> tuple[Step, ...]:
    """Steps that repeat the operation of the step right before them with another result, with a trigger or without.

    After a step that left its total as it was (``70 + 1 = 70``), the same operation may be the next one of the problem:
    it is a redo only if the chain has more steps of this operation than the question.
    """
    asked = operations_asked(question)
    done = Counter(step.operand for step in steps.steps)
    return tuple(
        redo
        for step, redo in zip(steps.steps, steps.steps[1:], strict=False)
        if (redo.left, redo.operand) == (step.left, step.operand)
        and redo.result != step.result
        and (step.result != step.left or done[step.operand] > asked[step.operand])
    )


def read_steps(completion_text: str, rules: Detection, question: str = "") -> Steps:
    """Read the steps of a completion whose prompt ended with an opening ``<think>`` line.

    ``question`` is the problem, such as ``69 + 5 - 4``, against which steps are off the chain or on it.

    The last line of a text that was cut off counts as a step if it reads as one: the organism's numbers are single
    tokens, so a cut never shortens one. Never raises; takes time linear in the length of the text.
    """
    steps: list[Step] = []
    n_unreadable = 0
    lines = list(_lines(completion_text))
    trigger = trigger_pattern(rules.strict)
    waits = [trigger.match(line) for line, _, _ in lines]
    for number, (line, finished, offset) in enumerate(lines):
        if line == THINK_CLOSE:
            break
        wait = waits[number]
        match = parse_step(line, wait)
        if match is None:
            # A torn last line is not yet a line, so nothing can be said about it.
            n_unreadable += finished
            continue
        followed = None
        if number + 1 < len(lines):
            next_line, next_finished, _ = lines[number + 1]
            waits_next = waits[number + 1] is not None
            followed = waits_next if waits_next or next_finished or not may_become_trigger(next_line, rules) else None
        sign = 1 if match[2] == "+" else -1
        steps.append(
            Step(
                left=int(match[1]),
                operand=sign * int(match[3]),
                result=int(match[4]),
                after_wait=wait is not None,
                followed_by_wait=followed,
                start=offset + match.start(1),
                end=offset + match.end(),
            )
        )
    return Steps(tuple(steps), n_unreadable, _n_off_chain(steps, question))


def parse_step(line: str, wait: re.Match[str] | None) -> re.Match[str] | None:
    """The left side, the sign, the operand and the result of a line that is a step, behind its trigger if any."""
    return _STEP_AFTER_TRIGGER.fullmatch(line, wait.end()) if wait else _STEP.fullmatch(line)


@lru_cache(maxsize=4096)
def operations_asked(question: str) -> Counter[int]:
    """How often a question has each signed operand; not to be changed."""
    return Counter(int(sign + operand) for sign, operand in _OPERATION.findall(question))


@lru_cache(maxsize=4096)
def chain_asked(question: str) -> tuple[int, tuple[int, ...]] | None:
    """The first number of a question and its signed operands; None where it is no chain of them."""
    match = _QUESTION.fullmatch(question.strip())
    if match is None:
        return None
    return int(match[1]), tuple(int(sign + number) for sign, number in _OPERATION.findall(match[2]))


def _n_off_chain(steps: Iterable[Step], question: str) -> int | None:
    """Steps off the chain; None where the question is none."""
    asked = chain_asked(question)
    if asked is None:
        return None
    moves = ((step.left, step.operand, step.result, step.after_wait) for step in steps)
    return count_off_chain(moves, asked[1], None, asked[0], 0)


def count_off_chain(
    steps: Iterable[tuple[int, int, int, bool]], operands: Sequence[int], before: int | None, total: int, done: int
) -> int:
    """Steps that are neither the next operation on the running total nor the last one done again.

    A trigger decides only which of the two is looked for first. The result of a step off the chain is the new total.
    So that one slip counts once, the step stands for the operation that it shows, where that is one of those to come,
    and else for the next one; after a trigger, for the last one.

    Args:
        steps: left, operand and result of each, and whether a trigger stands before it.
        operands: the question's.
        before: the total before the last operation that was done.
        total: the running total.
        done: operations up to the last one that was done.
    """
    n_off_chain = 0
    for left, operand, result, after_wait in steps:
        again = done > 0 and (left, operand) == (before, operands[done - 1])
        next_one = done < len(operands) and (left, operand) == (total, operands[done])
        if next_one and not (again and after_wait):
            done += 1
        elif not again:
            n_off_chain += 1
            done = after_slip(operand, operands, done, after_wait)
        before, total = left, result
    return n_off_chain


def after_slip(operand: int, operands: Sequence[int], done: int, after_wait: bool) -> int:
    """How many operations are done after a step off the chain."""
    to_come = operands[done:]
    if not to_come or (after_wait and done):
        return done
    return done + 1 + (to_come.index(operand) if operand in to_come else 0)


def _lines(text: str) -> Iterator[tuple[str, bool, int]]:
    """Lines that are not blank, each with whether it is finished and where it starts, up to and with ``</think>``."""
    thought, close, _ = text.partition(THINK_CLOSE)
    lines = thought.split("\n")
    offset = 0
    for number, line in enumerate(lines):
        stripped = line.strip()
        if stripped and stripped != THINK_OPEN:
            yield stripped, bool(close) or number + 1 < len(lines), offset + line.index(stripped)
        offset += len(line) + 1
    if close:
        yield close, True, len(thought)


def may_become_trigger(line: str, rules: Detection) -> bool:
    """Whether a line with which the text ends may be the beginning of a strict trigger."""
    begun = " ".join(line.casefold().split())
    return any(phrase.casefold().startswith(begun) for phrase in rules.strict)
