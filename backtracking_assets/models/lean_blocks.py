"""The same attention blocks and norms with fewer kernels, where the architecture is known to be Qwen2's or Llama's.

A decode step is a long row of small kernels: what a block computes in one takes less time than in three. Modules stay
in place, so that hooks fire as before; other architectures run through transformers' own code.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2RMSNorm

from backtracking_assets.models.slot_cache import SlotCache, grouped_attention


def make_lean(model: PreTrainedModel) -> int:
    """Have a model's known blocks decode with fewer kernels; returns how many blocks and norms do so.

    Query, key and value weights move into one tensor, of which the parameters become views.
    """
    found = 0
    for module in model.modules():
        if "forward" in vars(module):
            continue  # someone else's already
        # Not of a subclass, which may compute something else.
        if type(module) in (Qwen2Attention, LlamaAttention):
            _make_attention_lean(module)
        elif type(module) in (Qwen2RMSNorm, LlamaRMSNorm):
            _make_norm_lean(module)
        else:
            continue
        found += 1
    return found


def _make_norm_lean(norm: Any) -> None:
    shape, epsilon = tuple(norm.weight.shape), norm.variance_epsilon

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden_states, shape, norm.weight, epsilon)

    norm.forward = forward


def _make_attention_lean(attention: Any) -> None:
    original, head_size = attention.forward, attention.head_dim
    weight, bias = _as_one(attention.q_proj, attention.k_proj, attention.v_proj)
    n_keys = attention.k_proj.out_features // head_size
    n_queries = attention.q_proj.out_features // head_size
    half = head_size // 2

    def forward(
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        rows, positions, _ = hidden_states.shape
        if positions != 1 or not isinstance(past_key_values, SlotCache):
            return original(
                hidden_states=hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        heads = functional.linear(hidden_states, weight, bias).view(rows, n_queries + 2 * n_keys, 1, head_size)
        cos, sin = position_embeddings
        turned = heads[:, : n_queries + n_keys]
        across = torch.cat((-turned[..., half:], turned[..., :half]), dim=-1)
        turned = (turned * cos[:, None]).add_(across.mul_(sin[:, None]))
        keys, values = past_key_values.update(
            turned[:, n_queries:], heads[:, n_queries + n_keys :], attention.layer_idx
        )
        output, _ = grouped_attention(attention, turned[:, :n_queries], keys, values, attention_mask, attention.scaling)
        return attention.o_proj(output.reshape(rows, 1, n_queries * head_size)), None

    attention.forward = forward


def _as_one(*layers: nn.Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The layers' weights and biases below one another; the layers' own become parts of them."""
    weight = torch.cat([layer.weight.data for layer in layers])
    biases = [layer.bias for layer in layers]
    bias = torch.cat([one.data for one in biases]) if biases[0] is not None else None
    start = 0
    for layer in layers:
        end = start + layer.out_features
        layer.weight.data = weight[start:end]
        if bias is not None:
            layer.bias.data = bias[start:end]
        start = end
    return weight, bias
