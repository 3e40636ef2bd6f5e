"""The logit lens: what the final norm and the unembedding make of the residual stream after every layer.

nostalgebraist 2020, "interpreting GPT: the logit lens". The stream is read at one position, in the decode step that
predicts the next token.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from backtracking_assets.errors import BacktrackingError, CheckpointError
from backtracking_assets.models.component_scan import rounding_tolerance
from backtracking_assets.models.forward_passes import decode_step, prefill
from backtracking_assets.models.interventions import decoder_layers
from backtracking_assets.models.slot_cache import SlotCache
from backtracking_assets.scan_records import EMBEDDING

_NORM_NAMES = ("norm", "ln_f", "final_layernorm", "final_layer_norm")


@dataclass(frozen=True)
class LensReading:
    """One token's standing after one layer; after the embedding where `layer` is `EMBEDDING`."""

    layer: int
    logit: float
    log_probability: float
    rank: int
    """1 is the most probable; equals share the better rank."""


@dataclass(frozen=True)
class Lens:
    readings: tuple[LensReading, ...]
    """The embedding first, then every layer."""
    logits: torch.Tensor
    """The model's own, `[vocab]`, float64."""
    largest_deviation: float
    """Between the last layer's lens and the model's own logits, over the vocabulary."""
    tolerance: float
    """What is put down to rounding."""

    @property
    def ends_in_the_models_logits(self) -> bool:
        return self.largest_deviation <= self.tolerance


def read_lens(model: PreTrainedModel, token_ids: Sequence[int], wanted_id: int) -> Lens:
    """The standing of one token after every layer, at the last position of a prefix.

    Args:
        token_ids: prompt and beginning of the completion, two tokens at least.

    Raises:
        BacktrackingError: logits are NaN or infinite.
        CheckpointError: the model has no final norm or no unembedding under a known name.
    """
    device = model.device
    norm, unembed = final_norm(model), model.get_output_embeddings()
    if not isinstance(unembed, nn.Module):
        raise CheckpointError(f"{type(model).__name__} has no unembedding, so its layers cannot be read as logits.")
    with torch.inference_mode():
        none = torch.zeros(1, dtype=torch.long, device=device)
        read = torch.tensor([list(token_ids[:-1])], device=device)
        cache = SlotCache(len(decoder_layers(model)), len(token_ids))
        prefill(model, read, none, cache)
        columns = torch.arange(cache.capacity, device=device)
        with _streams(model) as streams:
            last = torch.tensor([token_ids[-1]], device=device)
            own = decode_step(model, last, none, cache, columns, None)[0].double()
        readings: list[LensReading] = []
        logits = own
        for layer, stream in streams.items():
            logits = unembed(norm(stream))[0, -1].double()
            if not bool(torch.isfinite(logits).all()):
                raise BacktrackingError(
                    f"The logit lens after {'the embedding' if layer == EMBEDDING else f'layer {layer}'} is NaN or "
                    "infinite; set model.dtype to float32."
                )
            log_probabilities = torch.log_softmax(logits, dim=-1)
            standing = log_probabilities[wanted_id]
            rank = int((log_probabilities > standing).sum()) + 1
            readings.append(LensReading(layer, float(logits[wanted_id]), float(standing), rank))
    return Lens(tuple(readings), own, float((logits - own).abs().max()), rounding_tolerance(own, model.dtype))


def final_norm(model: nn.Module) -> nn.Module:
    """The norm that stands between the last layer and the unembedding.

    Raises:
        CheckpointError: the model has none under a known name.
    """
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    for name in _NORM_NAMES:
        module = getattr(base, name, None)
        if isinstance(module, nn.Module):
            return module
    raise CheckpointError(
        f"{type(model).__name__} has no final norm under a known name ({', '.join(_NORM_NAMES)}); "
        "use a Qwen2- or Llama-like checkpoint."
    )


@contextmanager
def _streams(model: nn.Module) -> Iterator[dict[int, torch.Tensor]]:
    """Record the residual stream, `[1, 1, hidden]`, before the first layer and after each one; hooks are removed."""
    found: dict[int, torch.Tensor] = {}
    handles: list[RemovableHandle] = []

    def before(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found[EMBEDDING] = arguments[0] if arguments else named["hidden_states"]

    def after(layer: int) -> Any:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            found[layer] = output[0] if isinstance(output, tuple) else output

        return record

    try:
        layers = decoder_layers(model)
        handles.append(layers[0].register_forward_pre_hook(before, with_kwargs=True))
        handles += [module.register_forward_hook(after(layer)) for layer, module in enumerate(layers)]
        yield found
    finally:
        for handle in handles:
            handle.remove()
