"""A key-value cache of fixed slots that is written in place, and the attention that reads it.

Handed to a `transformers` model as `past_key_values`: the model calls `update` and nothing else.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface

ATTENTION = "backtracking_grouped"
"""Name under which `grouped_attention` is registered with transformers."""


_GROWTH = 16
"""Columns by which a cache grows. Those of one row stand beside each other, and a step reads all of them: with columns
between the rows that are not in use yet, it takes a third longer."""


class SlotCache:
    """Keys and values of every layer, `[slots, key-value heads, columns, head size]` each, up to a capacity of columns.

    All rows have the same length; shorter prompts are padded on the left. `advance` moves the common length after a
    forward pass.
    """

    is_compileable = False

    def __init__(self, n_layers: int, capacity: int) -> None:
        self.n_layers = n_layers
        self.capacity = capacity
        self.length = 0
        self._keys: list[torch.Tensor | None] = [None] * n_layers
        self._values: list[torch.Tensor | None] = [None] * n_layers

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new positions of one layer; returns keys and values up to and including them."""
        end = self.length + key_states.shape[2]
        keys = self._slots(self._keys, key_states, layer_idx, end)
        values = self._slots(self._values, value_states, layer_idx, end)
        keys[:, :, self.length : end] = key_states
        values[:, :, self.length : end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def _slots(
        self, buffers: list[torch.Tensor | None], states: torch.Tensor, layer: int, columns: int
    ) -> torch.Tensor:
        buffer = buffers[layer]
        if buffer is None or buffer.shape[2] < columns:
            rows, heads, _, head_size = states.shape
            most = min(self.capacity, -(-columns // _GROWTH) * _GROWTH)
            # Not filled: nothing is read before it is written.
            grown = states.new_empty((rows, heads, most, head_size))
            if buffer is not None:
                grown[:, :, : self.length] = buffer[:, :, : self.length]
            buffers[layer] = buffer = grown
        return buffer

    def reserve(self, columns: int) -> None:
        """Have room for so many columns in all layers, so that views of rows can be written without growing."""
        for buffers in (self._keys, self._values):
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    self._slots(buffers, buffer, layer, columns)

    def advance(self, positions: int) -> None:
        self.length += positions

    def rewind(self, length: int) -> None:
        """Forget what stands from a length on, so that another continuation of the same positions can be written."""
        self.length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def take(self, rows: torch.Tensor) -> None:
        """Keep the given rows, in the given order; a row may be taken more than once."""
        for buffers in (self._keys, self._values):
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    taken = buffer.new_empty((len(rows), *buffer.shape[1:]))
                    torch.index_select(buffer[:, :, : self.length], 0, rows, out=taken[:, :, : self.length])
                    buffers[layer] = taken

    def drop(self, holes: torch.Tensor, movers: torch.Tensor, n_rows: int) -> None:
        """Keep the first n rows, after the rows `movers` have taken the places of the rows `holes`."""
        for buffers in (self._keys, self._values):
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    if len(holes):
                        buffer[holes, :, : self.length] = buffer[movers, :, : self.length]
                    buffers[layer] = buffer[:n_rows]

    def copy_of(self, rows: torch.Tensor) -> "SlotCache":
        """A cache of the given rows with buffers of its own; this one stays as it is."""
        other = SlotCache(len(self._keys), self.capacity)
        other.length = self.length
        other._keys, other._values = list(self._keys), list(self._values)
        other.take(rows)
        return other

    def written(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer up to the common length, as views."""
        pairs = zip(self._keys, self._values, strict=True)
        return [(k[:, :, : self.length], v[:, :, : self.length]) for k, v in pairs if k is not None and v is not None]

    def view_of(self, rows: slice) -> "SlotCache":
        """A cache of neighboring rows that shares this one's buffers and has a length of its own."""
        other = SlotCache(len(self._keys), self.capacity)
        other.length = self.length
        other._keys = [None if buffer is None else buffer[rows] for buffer in self._keys]
        other._values = [None if buffer is None else buffer[rows] for buffer in self._values]
        return other


def grouped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention; at one query position, without copying keys and values to every query head.

    Args:
        query: `[rows, heads, positions, head size]`.
        key, value: `[rows, key-value heads, length, head size]`.
        attention_mask: `[rows, 1, positions, length]`, boolean and true where attention is allowed, or in the query's
            dtype and added to the scores.

    Returns:
        `[rows, positions, heads, head size]`, and None where transformers expects attention weights.
    """
    rows, heads, positions, head_size = query.shape
    groups = heads // key.shape[1]
    if positions == 1:
        # The query heads that share a key-value head stand as query positions of that head; one mask row serves all.
        packed = query.reshape(rows, heads // groups, groups, head_size)
        if query.device.type == "cpu" and query.dtype == torch.float32 and attention_mask is not None:
            output = _few_queries(packed, key, value, attention_mask, scaling)
        else:
            output = functional.scaled_dot_product_attention(
                packed, key, value, attn_mask=attention_mask, scale=scaling
            )
        output = output.reshape(rows, heads, 1, head_size)
    else:
        output = functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(groups, dim=1),
            value.repeat_interleave(groups, dim=1),
            attn_mask=attention_mask,
            scale=scaling,
        )
    return output.transpose(1, 2).contiguous(), None


def _few_queries(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """The same as two batched products: torch's kernel for CPUs works in blocks of queries that stay all but empty."""
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(-1, -2)
    scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    return scores.softmax(dim=-1) @ value


def added_mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A boolean mask as what is added to the scores, so that no layer has to turn it into that anew."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -torch.inf)


def left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as one tensor, padded on the left: token ids `[rows, length]` and padding of each row `[rows]`."""
    length = max(len(prompt) for prompt in prompts)
    padding = [length - len(prompt) for prompt in prompts]
    ids = [[pad] * missing + list(prompt) for prompt, missing in zip(prompts, padding, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(padding, device=device)


AttentionInterface.register(ATTENTION, grouped_attention)
