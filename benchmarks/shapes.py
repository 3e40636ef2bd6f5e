"""Models with random weights in the shapes that are measured."""

from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from backtracking_assets.models.slot_cache import ATTENTION

N_LAYERS = 28

SHAPES: dict[str, dict[str, Any]] = {
    "organism": {
        "vocab_size": 131,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "real": {  # DeepSeek-R1-Distill-Qwen-1.5B
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    },
}


def random_model(shape: str, device: str, dtype: torch.dtype, *, attention: str = ATTENTION) -> PreTrainedModel:
    """28 layers with random weights, the same ones at every call.

    Args:
        shape: a name in `SHAPES`.
        attention: the attention implementation, as transformers names it.
    """
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[shape], num_hidden_layers=N_LAYERS, max_position_embeddings=32_768, dtype=dtype)
    config._attn_implementation = attention
    with torch.device(device):
        model: Any = Qwen2ForCausalLM(config)  # the library's own `to` has no usable type
    return model.to(dtype=dtype).eval()
