"""Other ways to make the same completions: transformers' own `generate` and `generate_batch`, with scaling hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from backtracking_assets.conditions import Intervention
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models.interventions import component_module


@dataclass(frozen=True)
class Asked:
    """What every peer is asked: prompts, one for each completion, and how to sample."""

    prompts: list[list[int]]
    sampling: Sampling
    stop_ids: frozenset[int]
    pad_id: int
    intervention: Intervention | None

    def first(self, n: int) -> "Asked":
        return Asked(self.prompts[:n], self.sampling, self.stop_ids, self.pad_id, self.intervention)

    def arguments(self) -> dict[str, Any]:
        """Sampling as `generate` takes it. Top-k is off: it would be 50 by default."""
        drawn = {"temperature": self.sampling.temperature, "top_p": self.sampling.top_p, "top_k": 0}
        return {
            "max_new_tokens": self.sampling.max_new_tokens,
            "eos_token_id": sorted(self.stop_ids) or None,
            "pad_token_id": self.pad_id,
            "do_sample": self.sampling.temperature > 0,
            **(drawn if self.sampling.temperature > 0 else {}),
        }

    def cut(self, tokens: list[int]) -> list[int]:
        """Tokens up to the first stop token, it included."""
        ends = [place for place, token in enumerate(tokens) if token in self.stop_ids]
        return tokens[: ends[0] + 1] if ends else tokens


@contextmanager
def scaling_hooks(
    model: PreTrainedModel, intervention: Intervention | None, *, everywhere: bool = False
) -> Iterator[None]:
    """Scale outputs at decode steps, which are told by their one position; or at every one, prompts included."""

    def scale(module: Any, inputs: Any, output: Any) -> Any:
        whole = output[0] if isinstance(output, tuple) else output
        if whole.shape[1] != 1 and not everywhere:
            return None
        changed = whole * intervention.scale  # type: ignore[union-attr]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    targets = intervention.components if intervention is not None else ()
    handles = [component_module(model, *target).register_forward_hook(scale) for target in targets]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def one_at_a_time(model: Any, asked: Asked) -> list[list[int]]:
    """The reference study's loop."""
    made = []
    with scaling_hooks(model, asked.intervention):
        for prompt in asked.prompts:
            ids = torch.tensor([prompt], device=model.device)
            output = model.generate(ids, attention_mask=torch.ones_like(ids), **asked.arguments())
            made.append(asked.cut(output[0, len(prompt) :].tolist()))
    return made


def in_batches(model: Any, asked: Asked, size: int) -> list[list[int]]:
    """Batches of a size, padded on the left."""
    made = []
    with scaling_hooks(model, asked.intervention):
        for start in range(0, len(asked.prompts), size):
            prompts = asked.prompts[start : start + size]
            length = max(map(len, prompts))
            ids = [[asked.pad_id] * (length - len(one)) + one for one in prompts]
            mask = [[0] * (length - len(one)) + [1] * len(one) for one in prompts]
            output = model.generate(
                torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                **asked.arguments(),
            )
            made += [asked.cut(row) for row in output[:, length:].tolist()]
    return made


def continuously(model: Any, asked: Asked) -> list[list[int]]:
    """transformers' continuous batching. It mixes prompts and new tokens in one pass, so its hooks scale both: the time
    is comparable, the tokens are not."""
    arguments = asked.arguments()
    # It wants an id that ends a completion; none is ever drawn where nothing is to end one.
    arguments["eos_token_id"] = arguments["eos_token_id"] or -1
    with scaling_hooks(model, asked.intervention, everywhere=True):
        outputs = model.generate_batch(asked.prompts, generation_config=GenerationConfig(**arguments))
    rows = sorted(outputs.values(), key=lambda one: int(one.request_id.rpartition("_")[2]))
    return [asked.cut(list(one.generated_tokens)) for one in rows]
