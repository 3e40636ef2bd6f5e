"""The two forward passes of decoding, over a batch of rows that are padded on the left."""

import torch
from transformers import PreTrainedModel

from backtracking_assets.errors import BacktrackingError
from backtracking_assets.models.interventions import Scaling
from backtracking_assets.models.slot_cache import SlotCache, added_mask


def prefill(model: PreTrainedModel, token_ids: torch.Tensor, padding: torch.Tensor, cache: SlotCache) -> torch.Tensor:
    """Read `[rows, length]` tokens into an empty cache; logits after the last one, `[rows, vocab]`.

    No intervention acts here: the engine switches it on for decode steps.
    """
    length = token_ids.shape[1]
    positions = torch.arange(length, device=token_ids.device)
    shown = positions[None, :] >= padding[:, None]
    causal = positions[None, :] <= positions[:, None]
    # Padding positions see themselves: a row of the mask without any true entry would give NaN.
    itself = torch.eye(length, dtype=torch.bool, device=token_ids.device)
    mask = (causal[None] & shown[:, None, :]) | itself[None]
    output = model(
        input_ids=token_ids,
        attention_mask=mask[:, None],
        position_ids=(positions[None, :] - padding[:, None]).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.advance(length)
    return output.logits[:, -1]


def decode_step(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    padding: torch.Tensor,
    cache: SlotCache,
    columns: torch.Tensor,
    scaling: Scaling | None,
) -> torch.Tensor:
    """One token more of every row, intervened on if a scaling is given; logits `[rows, vocab]`.

    Args:
        tokens: `[rows]`.
        columns: 0, 1, … up to the cache's capacity, on the model's device.

    Raises:
        BacktrackingError: a hooked component did not fire exactly once.
    """
    length = cache.length
    shown = columns[: length + 1] >= padding[:, None]
    logits = decode_pass(model, tokens, shown, length - padding, cache, scaling)
    cache.advance(1)
    return logits


def decode_pass(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    shown: torch.Tensor,
    positions: torch.Tensor,
    cache: SlotCache,
    scaling: Scaling | None,
) -> torch.Tensor:
    """The pass behind `decode_step`, which leaves the cache's length to its caller.

    Args:
        shown: which columns of the cache each row sees, `[rows, columns]`.
        positions: where the tokens stand in their rows, `[rows]`.

    Raises:
        BacktrackingError: see `decode_step`.
    """
    if scaling is not None:
        scaling.active = True
        scaling.firings.clear()
    output = model(
        input_ids=tokens[:, None],
        attention_mask=added_mask(shown, model.dtype)[:, None, None, :],
        position_ids=positions[:, None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits = output.logits[:, -1]
    if scaling is None:
        return logits
    _check_firings(model, scaling)
    return scaling.on_logits(logits)


def read_block(model: PreTrainedModel, token_ids: torch.Tensor, padding: torch.Tensor, cache: SlotCache) -> None:
    """Read `[rows, positions]` tokens more into a cache, each seeing those before it; their logits are dropped.

    What intervenes is the caller's to switch.
    """
    length, n_read = cache.length, token_ids.shape[1]
    columns = torch.arange(length + n_read, device=token_ids.device)
    positions = columns[length:]
    shown = columns[None, :] >= padding[:, None]
    mask = shown[:, None, :] & (columns[None, :] <= positions[:, None])
    model(
        input_ids=token_ids,
        attention_mask=mask[:, None],
        position_ids=positions[None, :] - padding[:, None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.advance(n_read)


def _check_firings(model: PreTrainedModel, scaling: Scaling) -> None:
    for layer, component in scaling.components:
        times = scaling.firings[layer, component]
        if times != 1:
            raise BacktrackingError(
                f"{component} layer {layer} fired {times} times in one decode step instead of once; "
                f"{type(model).__name__} does not run its blocks as this engine expects."
            )
