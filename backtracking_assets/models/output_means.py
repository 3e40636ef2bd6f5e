"""Mean outputs of components over the decode positions of completions that are given."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from backtracking_assets.errors import BacktrackingError
from backtracking_assets.models.forward_passes import prefill
from backtracking_assets.models.interventions import Target, component_module, decoder_layers
from backtracking_assets.models.memory import is_out_of_memory, out_of_memory_facts
from backtracking_assets.models.slot_cache import SlotCache
from backtracking_assets.records import Component


@dataclass(frozen=True)
class OutputSums:
    """The outputs of every component, summed over decode positions in float64 on the model's device."""

    totals: dict[Target, torch.Tensor]
    """`[hidden]`."""
    squares: dict[Target, torch.Tensor]
    """Summed squared length."""
    n_positions: int


@dataclass(frozen=True)
class OutputMeans:
    """What the components of a model put out on average, each position weighing the same."""

    vectors: dict[Target, np.ndarray]
    """`[hidden]`, float32."""
    shares: dict[Target, float]
    """Squared length of the mean over the mean squared length of the outputs: 1 where all outputs are the same."""
    n_positions: int


def output_sums(model: PreTrainedModel, completions: Iterable[tuple[Sequence[int], Sequence[int]]]) -> OutputSums:
    """The outputs of every attention and MLP block, summed over the decode positions of completions.

    A completion's decode positions are those of its tokens but the last: each of them is read in one decode step. Each
    completion is read in one forward pass of its own. The same completions in the same order give the same bits on the
    same kind of device.

    Args:
        completions: pairs of prompt and completion as token ids.

    Raises:
        BacktrackingError: one completion does not fit into the device's memory.
    """
    totals: dict[Target, torch.Tensor] = {}
    squares: dict[Target, torch.Tensor] = {}
    n_positions = 0
    with torch.inference_mode(), _outputs(model) as outputs:
        for prompt, completion in completions:
            if len(completion) < 2:
                continue
            _read(model, [*prompt, *completion[:-1]])
            for target, output in outputs.items():
                decoded = output[0, len(prompt) :].double()
                total, square = decoded.sum(dim=0), decoded.square().sum()
                totals[target] = totals[target] + total if target in totals else total
                squares[target] = squares[target] + square if target in squares else square
            n_positions += len(completion) - 1
    return OutputSums(totals, squares, n_positions)


def output_means(model: PreTrainedModel, completions: Iterable[tuple[Sequence[int], Sequence[int]]]) -> OutputMeans:
    """The mean output of every attention and MLP block, over the decode positions of completions; see `output_sums`.

    Args:
        completions: pairs of prompt and completion as token ids.

    Raises:
        BacktrackingError: there is no decode position, an output is NaN or infinite, all outputs are zero, or one
            completion does not fit into the device's memory.
    """
    found = output_sums(model, completions)
    n_positions, squares = found.n_positions, found.squares
    if not n_positions:
        raise BacktrackingError(
            "The held-out completions have no decode position to take means over: each ended with its first token; "
            "raise means.problems or sampling.max_new_tokens."
        )
    vectors = {target: (total / n_positions).float().cpu().numpy() for target, total in found.totals.items()}
    for (layer, kind), vector in vectors.items():
        if not np.isfinite(vector).all():
            raise BacktrackingError(
                f"The mean output of {kind} layer {layer} is NaN or infinite; nothing was stored. Set model.dtype to "
                "float32."
            )
    if not any(vector.any() for vector in vectors.values()):
        raise BacktrackingError(
            "All mean outputs are zero; nothing was stored. The checkpoint's blocks put out nothing."
        )
    return OutputMeans(
        vectors, {target: _share(vectors[target], squares[target], n_positions) for target in vectors}, n_positions
    )


def _share(vector: np.ndarray, square: torch.Tensor, n_positions: int) -> float:
    mean_square = float(square) / n_positions
    return float(np.square(vector, dtype=np.float64).sum()) / mean_square if mean_square else 0.0


def _read(model: PreTrainedModel, token_ids: list[int]) -> None:
    ids = torch.tensor([token_ids], device=model.device)
    padding = torch.zeros(1, dtype=torch.int64, device=model.device)
    try:
        prefill(model, ids, padding, SlotCache(len(decoder_layers(model)), len(token_ids)))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise BacktrackingError(
            f"A prompt and completion of {len(token_ids)} tokens do not fit into the memory of "
            f"{model.device}{out_of_memory_facts(error)}; lower sampling.max_new_tokens, or end what else runs there."
        ) from error


@contextmanager
def _outputs(model: PreTrainedModel) -> Iterator[dict[Target, torch.Tensor]]:
    """The outputs of all blocks in the last forward pass, `[rows, positions, hidden]` each."""
    kinds: tuple[Component, ...] = get_args(Component)
    seen: dict[Target, torch.Tensor] = {}
    handles: list[RemovableHandle] = []

    def keep(target: Target) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[target] = output[0] if isinstance(output, tuple) else output

        return hook

    try:
        for layer in range(len(decoder_layers(model))):
            for kind in kinds:
                handles.append(component_module(model, layer, kind).register_forward_hook(keep((layer, kind))))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
