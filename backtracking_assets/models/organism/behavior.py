"""What a finished organism does when it is sampled, with and without its planted components.

A small measurement for the model card, independent of the study's own engine and analysis.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from transformers import Qwen2ForCausalLM

from backtracking_assets.models.organism.chains import Problem, study_problems
from backtracking_assets.models.organism.estimates import Estimate, rate_estimate
from backtracking_assets.models.organism.recipe import OrganismComponent, Recipe
from backtracking_assets.models.organism.vocabulary import (
    EOS_ID,
    FINAL,
    PAD_ID,
    THINK_CLOSE,
    TOKENS,
    TRIGGERS,
    token_ids,
)

_STEP = re.compile(rf"(?:(?:{'|'.join(TRIGGERS)}), )?(\d+) ([+-]) (\d) = (\d+)")


class Behavior(BaseModel):
    """Rates over sampled completions, intervals clustered by problem.

    None stands where fewer than two problems had anything to count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str
    scale: float
    accuracy: Estimate
    strict_rate: Estimate
    """Share of completions with a trigger."""
    wrong_steps: Estimate | None
    """Share of steps, redone ones included, whose result is wrong."""
    trigger_after_wrong: Estimate | None
    trigger_after_right: Estimate | None
    at_cap: float
    """Share of completions that were cut off at the token cap."""


@dataclass
class _Counts:
    """Counts over the completions of one problem."""

    completions: int = 0
    correct: int = 0
    with_trigger: int = 0
    at_cap: int = 0
    steps: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """Steps, by whether they were right."""
    triggers: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """Triggers at once after a step, by whether that was right."""

    def add(self, problem: Problem, ids: list[int]) -> None:
        ended = EOS_ID in ids
        text = "".join(TOKENS[index] for index in (ids[: ids.index(EOS_ID)] if ended else ids))
        self.completions += 1
        self.at_cap += not ended
        self.correct += ended and text.endswith(f"{THINK_CLOSE}\n{FINAL}: {problem.answer}")
        self.with_trigger += any(trigger in text for trigger in TRIGGERS)
        lines = text.split("\n")
        for line, following in pairwise(lines):
            if step := _STEP.fullmatch(line):
                left, sign, operand, result = step.groups()
                right = int(left) + int(sign + operand) == int(result)
                self.steps[right] += 1
                self.triggers[right] += following.startswith(TRIGGERS)


def measure_behavior(
    model: Qwen2ForCausalLM, recipe: Recipe, label: str, scaled: Collection[OrganismComponent] = (), scale: float = 1.0
) -> Behavior:
    """Sample completions of study problems, the outputs of some components scaled at decode steps.

    The same seed is used for every call. Raises ValueError for a component that the model does not have.
    """
    settings = recipe.measurement
    problems = study_problems(settings.problems, operations=recipe.operations)
    prompts = [token_ids(problem.prompt_tokens) for problem in problems for _ in range(settings.samples)]
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD_ID] * (longest - len(prompt)) + prompt for prompt in prompts])
    with torch.random.fork_rng(devices=[]), _scaled_outputs(model, scaled, scale):
        torch.manual_seed(settings.seed)
        # transformers types generate for its own mixin only.
        completions = cast(Any, model).generate(
            ids,
            attention_mask=(ids != PAD_ID).long(),
            do_sample=True,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=0,
            max_new_tokens=settings.max_new_tokens,
        )[:, longest:]
    counts = [_Counts() for _ in problems]
    for row, completion in enumerate(completions.tolist()):
        counts[row // settings.samples].add(problems[row // settings.samples], completion)
    return Behavior(
        label=label,
        scale=scale,
        accuracy=rate_estimate([each.correct for each in counts], [each.completions for each in counts]),
        strict_rate=rate_estimate([each.with_trigger for each in counts], [each.completions for each in counts]),
        wrong_steps=_rate([each.steps[False] for each in counts], [sum(each.steps.values()) for each in counts]),
        trigger_after_wrong=_rate([each.triggers[False] for each in counts], [each.steps[False] for each in counts]),
        trigger_after_right=_rate([each.triggers[True] for each in counts], [each.steps[True] for each in counts]),
        at_cap=sum(each.at_cap for each in counts) / len(prompts),
    )


def _rate(hits: list[int], trials: list[int]) -> Estimate | None:
    return rate_estimate(hits, trials) if sum(trial > 0 for trial in trials) > 1 else None


@contextmanager
def _scaled_outputs(model: Qwen2ForCausalLM, scaled: Collection[OrganismComponent], scale: float) -> Iterator[None]:
    def scale_at_decode(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[1] != 1:  # prefill: the whole prompt at once
            return output
        return (hidden * scale, *output[1:]) if isinstance(output, tuple) else hidden * scale

    modules = dict(model.named_modules())
    names = [component.weight_prefixes[0].rstrip(".") for component in scaled]
    if unknown := [name for name in names if name not in modules]:
        raise ValueError(f"the model has no module {', '.join(unknown)}")
    handles = [modules[name].register_forward_hook(scale_at_decode) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
