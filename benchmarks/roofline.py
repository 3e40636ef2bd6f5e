"""What a device can do at best: its measured copy bandwidth and matrix rate, and what decoding needs of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from spread import timed


@dataclass(frozen=True)
class Device:
    bytes_per_second: float
    """Read plus written by a copy."""
    flops_per_second: float


def measured(device: str, dtype: torch.dtype, *, megabytes: int = 1024, side: int = 8192, repeats: int = 10) -> Device:
    """Measure a device: the best of several runs."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    source = torch.ones(megabytes << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = min(timed(lambda: target.copy_(source), wait) for _ in range(repeats))
    left, right = (torch.ones((side, side), dtype=dtype, device=device) for _ in range(2))
    product = min(timed(lambda: left @ right, wait) for _ in range(repeats))
    return Device(2 * source.nbytes / copy, 2 * side**3 / product)


def bound(model: Any, prompt_lengths: Sequence[int], new_tokens: Sequence[int], device: Device) -> float:
    """Seconds that decode steps take at least, all completions in one batch and none in it longer than it is open.

    In each step all weights are read once and multiplied with every open row, then the keys and values of every open
    row are read up to its length; each of the two parts takes the longer of its bytes and its flops. Prefill, sampling
    and everything between the products are not counted.
    """
    config = model.config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    item = next(model.parameters()).element_size()
    # The embedding table is read a row a token; a tied one is the head.
    weights = sum(p.numel() for p in model.get_decoder().layers.parameters())
    weights += model.get_output_embeddings().weight.numel()
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size
    flops_per_token = 4 * config.num_hidden_layers * config.num_attention_heads * head_size
    seconds = 0.0
    for step in range(1, max(new_tokens)):
        lengths = [prompt + step for prompt, new in zip(prompt_lengths, new_tokens, strict=True) if new > step]
        products = max(weights * item / device.bytes_per_second, 2 * weights * len(lengths) / device.flops_per_second)
        attention = max(
            per_token * sum(lengths) * item / device.bytes_per_second,
            flops_per_token * sum(lengths) / device.flops_per_second,
        )
        seconds += products + attention
    return seconds
