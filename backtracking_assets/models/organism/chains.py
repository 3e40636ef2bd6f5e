"""Seeded problems and chains of thought for the organism.

Study problems and training problems cannot overlap: ``is_held_out`` splits all questions by a hash of the
question itself. Study problems are drawn from one side only, training problems from the other, whatever the
seeds and however many are drawn. Importing this module needs the standard library only.

All randomness goes through ``random.Random.random``, whose sequence Python keeps the same across versions.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Final, TypeVar

from backtracking_assets.models.organism.vocabulary import (
    COLON,
    COMMA,
    EOS,
    EQUALS,
    FINAL,
    LARGEST_NUMBER,
    LARGEST_OPERAND,
    NEWLINE,
    PROBLEM,
    THINK_CLOSE,
    THINK_OPEN,
    TRIGGERS,
    operation_token,
)

_Choice = TypeVar("_Choice")

HELD_OUT_OF_256: Final = 16
STUDY_SEED: Final = 20_240
SECOND_STUDY_SEED: Final = 20_241
"""Of the problems that the second organism is asked."""
STUDY_PROBLEMS: Final = 240


@dataclass(frozen=True)
class Problem:
    """A start value and signed one-digit operands, applied from left to right."""

    start: int
    operands: tuple[int, ...]

    @property
    def question(self) -> str:
        """The question as asked, for example ``69 + 5 - 4``."""
        return "".join((str(self.start), *map(operation_token, self.operands)))

    @property
    def answer(self) -> int:
        return self.start + sum(self.operands)

    @property
    def prompt_tokens(self) -> tuple[str, ...]:
        """The token strings of ``Problem: {question}\\n<think>\\n``."""
        operations = map(operation_token, self.operands)
        return (PROBLEM, COLON, str(self.start), *operations, NEWLINE, THINK_OPEN, NEWLINE)


@dataclass(frozen=True)
class ChainSettings:
    """How chains of thought are drawn; every field is a probability or a weight unless it says otherwise."""

    wrong_step: float
    wrong_redo: float
    trigger_after_wrong: float
    trigger_after_right: float
    error_weights: tuple[tuple[int, float], ...] = ((1, 0.40), (-1, 0.40), (10, 0.10), (-10, 0.10))
    trigger_weights: tuple[float, ...] = (0.70, 0.20, 0.10)
    most_redos: int = 4
    """Redone steps in one chain, a count."""


@dataclass(frozen=True)
class Chain:
    """A problem with its chain of thought; prompt and completion are token strings."""

    prompt: tuple[str, ...]
    completion: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.prompt + self.completion)


def is_held_out(question: str) -> bool:
    """Return whether a question is reserved for study (1 in 16) and must never be trained on."""
    return hashlib.sha256(question.encode()).digest()[0] < HELD_OUT_OF_256


def draw_problem(rng: Random, operations: tuple[int, int], *, held_out: bool) -> Problem:
    """Draw a problem from one side of the held-out split.

    ``operations`` is the smallest and the largest number of operations; every running total is in 0..99.
    """
    while True:
        count = operations[0] + int(rng.random() * (operations[1] - operations[0] + 1))
        totals = [int(rng.random() * (LARGEST_NUMBER + 1))]
        operands: list[int] = []
        while len(operands) < count:
            size = 1 + int(rng.random() * LARGEST_OPERAND)
            operand = size if rng.random() < 0.5 else -size
            if 0 <= totals[-1] + operand <= LARGEST_NUMBER:
                operands.append(operand)
                totals.append(totals[-1] + operand)
        problem = Problem(totals[0], tuple(operands))
        if is_held_out(problem.question) == held_out:
            return problem


def study_problems(
    count: int = STUDY_PROBLEMS, seed: int = STUDY_SEED, operations: tuple[int, int] = (4, 6)
) -> list[Problem]:
    """Return distinct study problems; a larger count appends to a smaller one."""
    rng = Random(seed)
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        problem = draw_problem(rng, operations, held_out=True)
        problems.setdefault(problem.question, problem)
    return list(problems.values())


def study_problems_jsonl(problems: Sequence[Problem], prefix: str = "organism") -> str:
    """Return the problems file: one JSON object a line with ``id``, ``question`` and ``answer_value``."""
    rows = (
        {"id": f"{prefix}-{number:04d}", "question": problem.question, "answer_value": str(problem.answer)}
        for number, problem in enumerate(problems, start=1)
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def step_tokens(left: int, operand: int, result: int) -> tuple[str, ...]:
    """Return the token strings of one line of a chain, for example ``69 + 5 = 74\\n``."""
    return (str(left), operation_token(operand), EQUALS, str(result), NEWLINE)


def draw_chain(rng: Random, problem: Problem, settings: ChainSettings) -> Chain:
    """Draw a chain of thought: steps, some of them wrong, some followed by a trigger and redone.

    An error that is not redone is carried on. Errors are drawn so that every later total stays in 0..99.
    """
    completion: list[str] = []
    total = problem.start
    redos_left = settings.most_redos
    for index, operand in enumerate(problem.operands):
        may_be = _stays_in_range(problem.operands[index + 1 :])
        result = _draw_result(rng, total + operand, settings.wrong_step, settings.error_weights, may_be)
        completion.extend(step_tokens(total, operand, result))
        while redos_left > 0:
            right = result == total + operand
            trigger = settings.trigger_after_right if right else settings.trigger_after_wrong
            if rng.random() >= trigger:
                break
            redos_left -= 1
            result = _draw_result(rng, total + operand, settings.wrong_redo, settings.error_weights, may_be)
            word = _pick(rng, TRIGGERS, settings.trigger_weights)
            completion.extend((word, COMMA, *step_tokens(total, operand, result)))
        total = result
    completion.extend((THINK_CLOSE, NEWLINE, FINAL, COLON, str(total), EOS))
    return Chain(problem.prompt_tokens, tuple(completion))


def training_chains(seed: int | str, operations: tuple[int, int], settings: ChainSettings) -> Iterator[Chain]:
    """Yield chains for training without end; no study problem is ever among them (see ``is_held_out``)."""
    rng = Random(seed)
    while True:
        yield draw_chain(rng, draw_problem(rng, operations, held_out=False), settings)


def _stays_in_range(later: Sequence[int]) -> Callable[[int], bool]:
    sums = list(accumulate(later, initial=0))
    lowest, highest = -min(sums), LARGEST_NUMBER - max(sums)
    return lambda total: lowest <= total <= highest


def _draw_result(
    rng: Random,
    right: int,
    wrong: float,
    error_weights: tuple[tuple[int, float], ...],
    may_be: Callable[[int], bool],
) -> int:
    """Draw a step's result: ``right``, or with probability ``wrong`` an error that later steps can bear."""
    possible = [(right + offset, weight) for offset, weight in error_weights if may_be(right + offset)]
    if rng.random() >= wrong or not possible:
        return right
    return _pick(rng, [result for result, _ in possible], [weight for _, weight in possible])


def _pick(rng: Random, choices: Sequence[_Choice], weights: Sequence[float]) -> _Choice:
    threshold = rng.random() * sum(weights)
    for choice, limit in zip(choices, accumulate(weights), strict=True):
        if threshold < limit:
            return choice
    return choices[-1]
