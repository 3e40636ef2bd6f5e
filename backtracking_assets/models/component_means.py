"""The mean output of every component over the decode positions of given completions."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from backtracking_assets.errors import BacktrackingError
from backtracking_assets.models.component_scan import Target
from backtracking_assets.models.forward_passes import prefill
from backtracking_assets.models.interventions import component_module, decoder_layers
from backtracking_assets.models.slot_cache import SlotCache
from backtracking_assets.records import Component


def component_means(
    model: PreTrainedModel, completions: Iterable[tuple[Sequence[int], Sequence[int]]]
) -> dict[Target, torch.Tensor]:
    """The mean of each component's output, `[hidden]` in float64, over all decode positions of the completions.

    A decode position is one whose token is a completion's own and has a token after it: the prompt and the last token
    are none. Each counts once. A completion is one pass of its own, so that nothing depends on what it is read with.

    Args:
        completions: prompt and completion of each, as token ids.

    Raises:
        BacktrackingError: there is no decode position, or a mean is NaN or infinite.
    """
    n_layers = len(decoder_layers(model))
    kinds: tuple[Component, ...] = ("attention", "mlp")
    targets: list[Target] = [(layer, kind) for layer in range(n_layers) for kind in kinds]
    sums: dict[Target, torch.Tensor] = {}
    n_positions = 0
    none = torch.zeros(1, dtype=torch.long, device=model.device)
    with torch.inference_mode():
        for prompt, completion in completions:
            read = [*prompt, *completion[:-1]]
            if len(completion) < 2:
                continue
            with _summing(model, targets, len(prompt), sums):
                cache = SlotCache(n_layers, len(read))
                prefill(model, torch.tensor([read], device=model.device), none, cache)
            n_positions += len(completion) - 1
    if n_positions == 0:
        raise BacktrackingError("No completion has a decode position, so components have no mean output.")
    means = {target: sums[target] / n_positions for target in targets}
    broken = [target for target, mean in means.items() if not bool(torch.isfinite(mean).all())]
    if broken:
        layer, kind = broken[0]
        raise BacktrackingError(
            f"The mean output of {len(broken)} components is NaN or infinite, the first is {kind} {layer}; "
            "set model.dtype to float32."
        )
    return means


@contextmanager
def _summing(
    model: nn.Module, targets: Sequence[Target], start: int, sums: dict[Target, torch.Tensor]
) -> Iterator[None]:
    """Add the outputs of the targets from position `start` on to their sums."""
    handles: list[RemovableHandle] = []

    def hook(target: Target) -> Any:
        def add(module: nn.Module, inputs: Any, output: Any) -> None:
            whole = output[0] if isinstance(output, tuple) else output
            own = whole[0, start:].double().sum(dim=0)
            sums[target] = sums[target] + own if target in sums else own

        return add

    try:
        modules = [(target, component_module(model, *target)) for target in targets]
        for target, module in modules:
            handles.append(module.register_forward_hook(hook(target)))
        yield
    finally:
        for handle in handles:
            handle.remove()
