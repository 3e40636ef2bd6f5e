"""Injected steps: what an organism says at once after a wrong step, and after a right one.

A probe is a text that ends after a step of the chain; the probability of a trigger as the next token is read
from the logits at temperature 1, without sampling. Each probe comes twice, once with a wrong result and once
with the right one, on problems that were never trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from backtracking_assets.models.organism.chains import draw_problem, step_tokens
from backtracking_assets.models.organism.network import OrganismNetwork
from backtracking_assets.models.organism.vocabulary import LARGEST_NUMBER, PAD_ID, TRIGGER_IDS, token_ids

_OFFSETS = (1, -1, 1, -1, 1, -1, 1, -1, 10, -10)


@dataclass(frozen=True)
class InjectedStep:
    """Token ids of a problem and a chain, right up to its last step, which is wrong in one of the two texts."""

    line: int
    """Number of the injected step, from 0."""
    is_last: bool
    """Whether the problem ends with this step, so that finishing is the other choice."""
    wrong: tuple[int, ...]
    right: tuple[int, ...]


def injected_steps(count: int, seed: int, operations: tuple[int, int]) -> list[InjectedStep]:
    """Return probes on distinct held-out problems, the injected step spread evenly over the lines."""
    rng = Random(seed)
    probes: dict[str, InjectedStep] = {}
    while len(probes) < count:
        problem = draw_problem(rng, operations, held_out=True)
        line = int(rng.random() * len(problem.operands))
        offset = _OFFSETS[int(rng.random() * len(_OFFSETS))]
        tokens, total = list(problem.prompt_tokens), problem.start
        for operand in problem.operands[:line]:
            tokens.extend(step_tokens(total, operand, total + operand))
            total += operand
        right = total + problem.operands[line]
        wrong = right + offset if 0 <= right + offset <= LARGEST_NUMBER else right - offset
        texts = (token_ids([*tokens, *step_tokens(total, problem.operands[line], end)]) for end in (wrong, right))
        probes.setdefault(problem.question, InjectedStep(line, line + 1 == len(problem.operands), *map(tuple, texts)))
    return list(probes.values())


@torch.no_grad()
def trigger_probability(network: OrganismNetwork, texts: Sequence[Sequence[int]]) -> Tensor:
    """Return the probability ``[text]`` that the next token after each text is a trigger."""
    return _last_logits(network, texts).softmax(-1)[:, list(TRIGGER_IDS)].sum(-1)


@torch.no_grad()
def right_results(network: OrganismNetwork, probes: Sequence[InjectedStep]) -> Tensor:
    """Return 1 or 0 for each probe ``[probe]``: whether the likeliest token after the equals sign is right."""
    logits = _last_logits(network, [probe.right[:-2] for probe in probes])
    expected = torch.tensor([probe.right[-2] for probe in probes])
    return (logits.argmax(-1) == expected).double()


def _last_logits(network: OrganismNetwork, texts: Sequence[Sequence[int]]) -> Tensor:
    ids = torch.full((len(texts), max(map(len, texts))), PAD_ID)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    last = torch.tensor([len(text) - 1 for text in texts])
    return network(ids)[torch.arange(len(texts)), last]
