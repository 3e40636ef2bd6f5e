"""Training batches: chains of similar length, padded to the right, with a weight for every target."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

import torch
from torch import Tensor

from backtracking_assets.models.organism.chains import Chain, ChainSettings, training_chains
from backtracking_assets.models.organism.vocabulary import (
    EQUALS,
    LARGEST_NUMBER,
    LARGEST_OPERAND,
    NEWLINE,
    PAD_ID,
    THINK_CLOSE,
    TOKEN_IDS,
    TRIGGERS,
    operation_token,
    token_ids,
)

IGNORED = -100

_POOL = 1024
_FIRST_OPERATION = TOKEN_IDS[operation_token(1)]
_OPERATIONS = frozenset(operation_token(sign * size) for size in range(1, LARGEST_OPERAND + 1) for sign in (1, -1))


@dataclass(frozen=True)
class Batch:
    """Token ids ``[batch, length]``, and targets with their weights ``[batch, length - 1]``.

    A prompt's tokens and padding weigh 0: the loss is on completions only. ``quiet`` ``[batch, length]`` is 1
    where a detector of wrong steps has nothing to say: everywhere but at the results of steps, which it may
    compare, and at the newlines after wrong steps, where it should speak. Padding is 0. ``last_results``
    ``[batch, length - 1]`` is the result just written where the choice is to finish or redo, and ``IGNORED`` elsewhere.
    """

    ids: Tensor
    targets: Tensor
    weights: Tensor
    quiet: Tensor
    last_results: Tensor


def decisions(chain: Chain) -> dict[int, bool]:
    """Return the positions in a completion where the token was a choice: go on, redo the step, or finish.

    The value says whether the step before was the last one of the problem, where finishing was right.
    """
    steps_left = sum(token in _OPERATIONS for token in chain.prompt)
    found: dict[int, bool] = {}
    for position in range(2, len(chain.completion)):
        before, token = chain.completion[position - 2 : position], chain.completion[position]
        if before[1] == NEWLINE and before[0] != THINK_CLOSE:
            found[position] = steps_left == 1
            steps_left -= token not in TRIGGERS
    return found


def make_batch(chains: list[Chain], decision_weight: float = 1.0, last_decision_weight: float = 1.0) -> Batch:
    """Return one batch of chains. Choices after a step weigh more or less than other targets, which weigh 1."""
    longest = max(len(chain.prompt) + len(chain.completion) for chain in chains)
    ids = torch.full((len(chains), longest), PAD_ID)
    weights = torch.zeros((len(chains), longest))
    last_results = torch.full((len(chains), longest), IGNORED)
    for row, chain in enumerate(chains):
        start, end = len(chain.prompt), len(chain.prompt) + len(chain.completion)
        ids[row, :end] = torch.tensor(token_ids(chain.prompt + chain.completion))
        weights[row, start:end] = 1.0
        for position, is_last in decisions(chain).items():
            weights[row, start + position] = last_decision_weight if is_last else decision_weight
            if is_last:
                last_results[row, start + position] = TOKEN_IDS[chain.completion[position - 2]]
    return Batch(ids, ids[:, 1:], weights[:, 1:], _quiet_positions(ids), last_results[:, 1:])


def training_batches(
    seed: int | str,
    operations: tuple[int, int],
    settings: ChainSettings,
    tokens_per_batch: int,
    decision_weight: float = 1.0,
    last_decision_weight: float = 1.0,
) -> Iterator[Batch]:
    """Yield batches without end. Chains are sorted by length in pools of 1,024, so that little is padding."""
    chains = training_chains(seed, operations, settings)
    order = Random(f"order {seed}")
    while True:
        pool = sorted(islice(chains, _POOL), key=lambda chain: len(chain.prompt) + len(chain.completion))
        groups: list[list[Chain]] = [[]]
        for chain in pool:
            length = len(chain.prompt) + len(chain.completion)
            if groups[-1] and length * (len(groups[-1]) + 1) > tokens_per_batch:
                groups.append([])
            groups[-1].append(chain)
        # The last group is cut off by the end of the pool, so it is far smaller than the others.
        for _, group in sorted((order.random(), index) for index in range(max(1, len(groups) - 1))):
            yield make_batch(groups[group], decision_weight, last_decision_weight)


def _quiet_positions(ids: Tensor) -> Tensor:
    left, operation, equals, result = ids[:, :-4], ids[:, 1:-3], ids[:, 2:-2], ids[:, 3:-1]
    first_minus = _FIRST_OPERATION + LARGEST_OPERAND
    operand = torch.where(operation < first_minus, operation - _FIRST_OPERATION + 1, first_minus - 1 - operation)
    step = (equals == TOKEN_IDS[EQUALS]) & (result <= LARGEST_NUMBER)
    quiet = ids != PAD_ID
    quiet[:, 3:-1] &= ~step
    quiet[:, 4:] &= ~(step & (result != left + operand))
    return quiet.float()
