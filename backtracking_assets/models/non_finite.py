"""Where logits that are NaN or infinite come from: the weights, or the first block whose output is not finite."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from backtracking_assets.conditions import Intervention
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models.generation import Request, replay
from backtracking_assets.models.interventions import Means, component_module, decoder_layers
from backtracking_assets.records import Component

_COMPONENTS: tuple[Component, ...] = ("attention", "mlp")


def origin_of_non_finite(
    model: PreTrainedModel,
    request: Request,
    token_ids: Sequence[int],
    sampling: Sampling,
    intervention: Intervention | None,
    *,
    pad_id: int,
    means: Means | None = None,
) -> str:
    """A sentence on where the non-finite logits of a completion come from.

    Args:
        token_ids: the tokens of the completion, after which its logits were not finite.
    """
    if (name := non_finite_weights(model)) is not None:
        return f"The weights themselves hold NaN or infinite values: {name} is the first such tensor."
    found: list[tuple[str, int]] = []

    @contextmanager
    def watching(hooked: nn.Module) -> Iterator[Callable[[int], bool]]:
        with _watched(hooked) as first_non_finite:

            def seen_enough(step: int) -> bool:
                if (block := first_non_finite()) is not None:
                    found.append((block, step))
                return bool(found)

            yield seen_enough

    replay(model, request, token_ids, sampling, intervention, pad_id=pad_id, means=means, watching=watching)
    which = f"of problem {request.problem_id!r}, sample {request.sample_id}"
    if not found:
        return f"The completion {which} is finite throughout when it is run alone."
    block, step = found[0]
    sentence = f"In the completion {which}, the first output that is not finite is that of {block}, "
    sentence += f"decode step {step}" if step else "prefill"
    if intervention is not None and block in {f"{kind} layer {layer}" for layer, kind in intervention.components}:
        sentence += f", which is scaled by {intervention.scale:g}"
        sentence += "" if intervention.means_digest is None else " towards its mean"
    return f"{sentence}."


def non_finite_weights(model: nn.Module) -> str | None:
    """Name of the first parameter that holds a NaN or an infinite value; None where all are finite."""
    return next((name for name, values in model.named_parameters() if not torch.isfinite(values).all()), None)


@contextmanager
def _watched(model: nn.Module) -> Iterator[Callable[[], str | None]]:
    """Gives what tells the first block of the last forward pass whose output was not finite; None where all were."""
    flags: list[tuple[str, torch.Tensor]] = []
    handles: list[RemovableHandle] = []

    def watch(module: nn.Module, name: str) -> None:
        def note(hooked: nn.Module, inputs: Any, output: Any) -> None:
            values = output[0] if isinstance(output, tuple) else output
            flags.append((name, torch.isfinite(values).all()))

        handles.append(module.register_forward_hook(note))

    def first_non_finite() -> str | None:
        # One transfer to the host a pass, whatever the number of blocks.
        finite: list[bool] = torch.stack([flag for _, flag in flags]).tolist() if flags else []
        names = [name for name, _ in flags]
        flags.clear()
        return next((name for name, is_finite in zip(names, finite, strict=True) if not is_finite), None)

    try:
        for module, name in _blocks(model):
            watch(module, name)
        yield first_non_finite
    finally:
        for handle in handles:
            handle.remove()


def _blocks(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The embeddings, the blocks of each layer, the layers and the output head, with what people call them."""
    layers = decoder_layers(model)
    for layer in range(len(layers)):
        for kind in _COMPONENTS:
            yield component_module(model, layer, kind), f"{kind} layer {layer}"
        yield layers[layer], f"the residual stream after layer {layer}"
    for ask, name in (("get_input_embeddings", "the embeddings"), ("get_output_embeddings", "the output head")):
        module = getattr(model, ask)()
        if isinstance(module, nn.Module):
            yield module, name
