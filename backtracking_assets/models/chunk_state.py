"""How far a chunk is, as plain numbers and arrays: taken while it is decoded, and going on from there.

On a CPU the keys and values are among them, so that going on gives the bytes that decoding without a break gives. On a
GPU they are not: they are many gigabytes that the GPU computes anew from the tokens in less time than a disk gives them
back, equal up to rounding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from backtracking_assets.models.decoding import Decoding, Request
from backtracking_assets.models.forward_passes import prefill, read_block
from backtracking_assets.models.generated import Generated
from backtracking_assets.models.interventions import Scaling
from backtracking_assets.models.static_decoding import FixedCache, StaticDecoding
from backtracking_assets.records import FinishReason

STATE_VERSION = "1"
"""Raised when the numbers or the arrays of a state change."""

_BLOCK = 256
"""Tokens of a row that are read at once where keys and values are computed anew."""

_MOST_ELEMENTS = 2**27
"""Elements of one layer's keys, repeated for every query head, that are held at once then."""

_REASONS = get_args(FinishReason)


@dataclass(frozen=True)
class ChunkState:
    """How far a chunk is. The arrays are views of what the decoding goes on to change: keep them at once."""

    facts: Mapping[str, float]
    """`finished` completions of earlier batches, `rows` of the batch at work and the most that are begun at once
    (`size`), decode steps of the batch (`step`) and of those before (`steps_before`), seconds so far."""
    arrays: Mapping[str, np.ndarray]

    @property
    def steps(self) -> int:
        """Decode steps so far."""
        return int(self.facts["steps_before"] + self.facts["step"])


def state_of(
    decoding: Decoding, finished: Sequence[Generated], *, size: int, steps_before: int, seconds: float
) -> ChunkState:
    """The state of a chunk whose batch at work has just drawn a token for every slot.

    Args:
        finished: completions of the chunk's earlier batches.
        size: the most completions that are batched.
    """
    step, slots = decoding.step, _slots(decoding)
    facts = {
        "finished": len(finished),
        "rows": len(decoding.requests),
        "size": size,
        "step": step,
        "steps_before": steps_before,
        "seconds": seconds,
    }
    tokens = [token for row in finished for token in row.token_ids]
    arrays = {
        "finished.tokens": np.array(tokens, np.int32),
        "finished.lengths": np.array([len(row.token_ids) for row in finished], np.int32),
        "finished.reasons": np.array([_REASONS.index(row.finish_reason) for row in finished], np.int32),
        "finished.firings": np.array([row.n_firings for row in finished], np.int64),
        "finished.batch_rows": np.array([row.batch_rows for row in finished], np.int32),
        "tokens": decoding.tokens[:, : step + 1].to("cpu", torch.int32).numpy(),
        "fired_until": np.array(decoding.fired_until, np.int64),
        "row_of_slot": decoding.row_of_slot[:slots].cpu().numpy(),
        "ended": decoding.ended[:slots].cpu().numpy(),
        "last": decoding.last[:slots].cpu().numpy(),
    }
    if decoding.device.type == "cpu":
        for layer, (keys, values) in enumerate(decoding.cache.written()):
            arrays[f"keys.{layer}"], arrays[f"values.{layer}"] = _bits(keys[:slots]), _bits(values[:slots])
    return ChunkState(facts, arrays)


def finished_in(state: ChunkState, requests: Sequence[Request]) -> list[Generated]:
    """The completions of the chunk's earlier batches."""
    of = {name: state.arrays[f"finished.{name}"].tolist() for name in ("lengths", "reasons", "firings", "batch_rows")}
    ends = np.cumsum([0, *of["lengths"]]).tolist()
    tokens = state.arrays["finished.tokens"].tolist()
    return [
        Generated(request, tokens[start:end], _REASONS[reason], fired, rows)
        for request, start, end, reason, fired, rows in zip(
            requests, ends[:-1], ends[1:], of["reasons"], of["firings"], of["batch_rows"], strict=False
        )
    ]


def go_on_from(decoding: Decoding, state: ChunkState, scaling: Scaling | None) -> None:
    """Bring a batch that has not begun to where a state was taken of it.

    Keys and values that the state lacks are computed anew: the prompts without the intervention, as prefill read them,
    and the generated tokens with it, as the decode steps did.
    """
    device, arrays = decoding.device, state.arrays
    decoding.begun = True
    decoding.step = int(state.facts["step"])
    decoding.fired_until = arrays["fired_until"].tolist()
    decoding.tokens[:, : decoding.step + 1] = torch.from_numpy(arrays["tokens"]).to(device, torch.int64)
    decoding.row_of_slot = torch.from_numpy(arrays["row_of_slot"]).to(device)
    decoding.ended = torch.from_numpy(arrays["ended"]).to(device)
    decoding.last = torch.from_numpy(arrays["last"]).to(device)
    decoding.noise_keys = decoding.noise_keys[decoding.row_of_slot]
    decoding.padding = decoding.padding[decoding.row_of_slot]
    length = decoding.prompt_ids.shape[1] + decoding.step
    if "keys.0" not in arrays:
        _compute_cache(decoding, scaling)
    else:
        layer = 0
        while f"keys.{layer}" in arrays:
            keys, values = (_floats(arrays[f"{name}.{layer}"], decoding.model.dtype) for name in ("keys", "values"))
            decoding.cache.update(keys, values, layer)
            layer += 1
        decoding.cache.advance(length)
    assert decoding.cache.length == length
    if isinstance(decoding, StaticDecoding):
        decoding.n_slots = len(decoding.row_of_slot)
        decoding.cache = FixedCache(decoding.cache, torch.arange(decoding.n_slots, device=device))


def _slots(decoding: Decoding) -> int:
    """How many slots of a batch are in use: the first ones."""
    return decoding.n_slots if isinstance(decoding, StaticDecoding) else len(decoding.row_of_slot)


def _compute_cache(decoding: Decoding, scaling: Scaling | None) -> None:
    model, cache = decoding.model, decoding.cache
    if scaling is not None:
        scaling.active = False
    prefill(model, decoding.prompt_ids, decoding.prompt_padding, cache)
    cache.take(decoding.prompt_of_row[decoding.row_of_slot])
    cache.reserve(cache.length + decoding.step)
    # What a row that has ended reads is of no use to anyone; there may be no token.
    tokens = decoding.tokens[decoding.row_of_slot, : decoding.step].clamp(min=0)
    if scaling is not None:
        scaling.active = True
    config = model.config.get_text_config()
    width = (cache.length + decoding.step) * config.hidden_size
    at_once = max(1, _MOST_ELEMENTS // width)
    for first in range(0, len(tokens), at_once):
        rows = slice(first, first + at_once)
        part = cache.view_of(rows)
        for start in range(0, decoding.step, _BLOCK):
            read_block(model, tokens[rows, start : start + _BLOCK], decoding.padding[rows], part)
    cache.advance(decoding.step)


def _bits(tensor: torch.Tensor) -> np.ndarray:
    """The numbers of a tensor; as their bits where NumPy has no such type."""
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _floats(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor
