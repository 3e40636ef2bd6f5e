"""Every component's effect on the next token: all variants of one position in one pass, each row moving one component.

The prefix is read once up to its last token. That token is then read by all rows at once: they stand beside each other
as positions of one sequence that all have the same position id, see the prefix and themselves and not each other. So
every row computes what a decode step computes, and none needs a copy of the prefix's keys and values.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from backtracking_assets.errors import BacktrackingError
from backtracking_assets.models.forward_passes import decode_step, prefill
from backtracking_assets.models.interventions import Target, component_module, decoder_layers
from backtracking_assets.models.memory import out_of_memory_facts
from backtracking_assets.models.slot_cache import SlotCache
from backtracking_assets.records import Component
from backtracking_assets.scan_records import ScanMode

_MOST_LOGITS = 2**25
"""Logits that are held at once, as 64-bit numbers a quarter of a gigabyte: rows beyond go into another pass."""


_ROUNDINGS = 64


@dataclass(frozen=True)
class Variant:
    """One component's output moved at one position: s·x + (1 - s)·m, where m is 0 or the component's mean."""

    layer: int
    component: Component
    mode: ScanMode
    scale: float = 0.0

    @property
    def target(self) -> Target:
        return self.layer, self.component


def all_variants(n_layers: int, modes: Sequence[ScanMode]) -> list[Variant]:
    """Every component of every layer in every mode, at scale 0."""
    kinds: tuple[Component, ...] = ("attention", "mlp")
    return [Variant(layer, kind, mode) for layer in range(n_layers) for kind in kinds for mode in modes]


@dataclass(frozen=True)
class ScannedLogits:
    """Logits behind one prefix, float64 on the model's device."""

    alone: torch.Tensor
    """Of a decode step without any hook, `[vocab]`."""
    unscaled: torch.Tensor
    """Of the row of the scan that changes nothing, `[vocab]`."""
    scaled: torch.Tensor
    """A row for each variant, `[variants, vocab]`; only those of one pass are held."""
    variants: tuple[Variant, ...]
    firings: tuple[int, ...]
    """How many components changed each row; 1 unless the model runs its blocks in another way than expected."""
    tolerance: float
    """How far `unscaled` may be from `alone`, which other kernels compute."""

    @property
    def largest_deviation(self) -> float:
        return float((self.alone - self.unscaled).abs().max())


def scan_prefix(
    model: PreTrainedModel,
    token_ids: Sequence[int],
    variants: Sequence[Variant],
    means: Mapping[Target, torch.Tensor],
    *,
    most_logits: int = _MOST_LOGITS,
) -> Iterator[ScannedLogits]:
    """Logits behind a prefix for every variant, a pass at a time; the prefix is read once.

    Args:
        model: a causal language model whose attention is `slot_cache.grouped_attention`.
        token_ids: prompt and beginning of the completion, two tokens at least; the last one is where components move.
        means: the output that the mode `mean` moves to, `[hidden]`, of each component that a variant names.
        most_logits: rows × vocabulary of one pass at most.

    Raises:
        BacktrackingError: a component did not change exactly the rows that it was to change, or the memory is used up.
        CheckpointError: a component does not exist.
    """
    if len(token_ids) < 2:
        raise BacktrackingError("A prefix of one token has nothing before the position that is scanned.")
    vocabulary = model.config.get_text_config().vocab_size
    rows = max(min(most_logits // vocabulary - 1, len(variants)), 1)
    device = model.device
    try:
        with torch.inference_mode():
            read = torch.tensor([list(token_ids[:-1])], device=device)
            none = torch.zeros(1, dtype=torch.long, device=device)
            cache = SlotCache(len(decoder_layers(model)), read.shape[1] + 1 + rows)
            prefill(model, read, none, cache)
            columns = torch.arange(cache.capacity, device=device)
            last = torch.tensor([token_ids[-1]], device=device)
            alone = decode_step(model, last, none, cache, columns, None)[0].double()
            for start in range(0, len(variants), rows):
                cache.rewind(read.shape[1])
                part = tuple(variants[start : start + rows])
                logits, firings = _rows_at_once(model, token_ids[-1], part, means, cache)
                yield ScannedLogits(alone, logits[0], logits[1:], part, firings, rounding_tolerance(alone, model.dtype))
    except torch.OutOfMemoryError as error:
        raise BacktrackingError(
            f"{rows} rows of the component scan do not fit into the memory of {device}{out_of_memory_facts(error)}; "
            "end what else runs there, or set model.device to another."
        ) from error


def rounding_tolerance(logits: torch.Tensor, dtype: torch.dtype) -> float:
    """How far logits may be from those that the same model computes by other kernels: roundings of the largest one."""
    return _ROUNDINGS * torch.finfo(dtype).eps * max(float(logits.abs().max()), 1.0)


def _rows_at_once(
    model: PreTrainedModel,
    token: int,
    variants: Sequence[Variant],
    means: Mapping[Target, torch.Tensor],
    cache: SlotCache,
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """One pass: row 0 changes nothing, each following row one component. Logits `[1 + variants, vocab]`, firings."""
    n_rows, length, device = 1 + len(variants), cache.length, model.device
    prefix = torch.ones((n_rows, length), dtype=torch.bool, device=device)
    itself = torch.eye(n_rows, dtype=torch.bool, device=device)
    with _each_row_changed(model, variants, means) as firings:
        output = model(
            input_ids=torch.full((1, n_rows), token, device=device),
            attention_mask=torch.cat([prefix, itself], dim=1)[None, None],
            position_ids=torch.full((1, n_rows), length, device=device),
            past_key_values=cache,
            use_cache=True,
        )
    counted = tuple(firings[row] for row in range(1, n_rows))
    if firings[0] or set(counted) != {1}:
        raise BacktrackingError(
            f"In the component scan of {type(model).__name__}, rows were changed {sorted(set(counted))} times instead "
            f"of once and the unscaled one {firings[0]} times; it does not run its blocks as this engine expects."
        )
    return output.logits[0].double(), counted


@contextmanager
def _each_row_changed(
    model: nn.Module, variants: Sequence[Variant], means: Mapping[Target, torch.Tensor]
) -> Iterator[list[int]]:
    """Hook every component that a variant names; row r + 1 is changed by the component of variant r alone.

    Yields:
        How often each row was changed so far, row 0 first.

    Raises:
        CheckpointError: a component does not exist. No hook is left behind.
    """
    firings = [0] * (1 + len(variants))
    rows_of: dict[Target, list[int]] = {}
    for row, variant in enumerate(variants, start=1):
        rows_of.setdefault(variant.target, []).append(row)
    handles: list[RemovableHandle] = []
    try:
        modules = {target: component_module(model, *target) for target in rows_of}
        for target, rows in rows_of.items():
            own = [variants[row - 1] for row in rows]
            handles.append(modules[target].register_forward_hook(_hook(rows, own, means, firings)))
        yield firings
    finally:
        for handle in handles:
            handle.remove()


def _hook(
    rows: Sequence[int], variants: Sequence[Variant], means: Mapping[Target, torch.Tensor], firings: list[int]
) -> Any:
    """A forward hook that moves the given rows of a component's output, `[1, rows, hidden]`."""

    def change_rows(module: nn.Module, inputs: Any, output: Any) -> Any:
        whole = output[0] if isinstance(output, tuple) else output
        changed = whole.clone()
        for row, variant in zip(rows, variants, strict=True):
            # Moved in 64 bits and rounded once, as a mean has more digits than the model's numbers.
            moved = variant.scale * whole[0, row].double()
            if variant.mode == "mean":
                moved = moved + (1 - variant.scale) * means[variant.target].to(moved)
            changed[0, row] = moved.to(whole.dtype)
            firings[row] += 1
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return change_rows


@dataclass(frozen=True)
class NextTokenFigures:
    """The next token's distribution at temperature 1, in nats, for one row of a scan."""

    onset_logit: float
    onset_log_probability: float
    onset_margin: float
    """The onset token's logit minus the highest logit of the tokens that begin no trigger, in this row."""
    logit_difference: float
    """The onset token's logit minus that of the ordinary token, which is the same token in all rows of a position."""
    trigger_log_probability: float
    """Of the summed probability of all tokens that begin a trigger."""
    trigger_log_odds: float
    """Log-odds that the next token begins a trigger."""
    ordinary_log_probability: float
    ordinary_log_odds: float
    """Log-odds of the ordinary token against all others."""
    kl: float
    """Divergence of this row from the unscaled one, KL(unscaled ‖ row)."""
    kl_trigger: float
    """The part of it that is about whether a trigger comes: KL between the two-way distributions."""
    kl_ordinary: float
    """KL between the distributions over tokens that begin no trigger, given that none comes."""


def ordinary_token(unscaled: torch.Tensor, trigger_ids: Sequence[int]) -> int:
    """The most probable token of logits `[vocab]` that begins no trigger."""
    others = unscaled.clone()
    others[torch.tensor(list(trigger_ids), device=unscaled.device)] = -math.inf
    return int(others.argmax())


def figures(
    logits: torch.Tensor, unscaled: torch.Tensor, onset_id: int, ordinary_id: int, trigger_ids: Sequence[int]
) -> list[NextTokenFigures]:
    """The figures of each row of logits `[rows, vocab]`, beside the unscaled logits `[vocab]`; both float64."""
    is_trigger = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    is_trigger[torch.tensor(list(trigger_ids), device=logits.device)] = True
    own, reference = torch.log_softmax(logits, dim=-1), torch.log_softmax(unscaled, dim=-1)
    trigger, other = own[:, is_trigger].logsumexp(-1), own[:, ~is_trigger].logsumexp(-1)
    trigger_before, other_before = reference[is_trigger].logsumexp(-1), reference[~is_trigger].logsumexp(-1)
    two_way = trigger_before.exp() * (trigger_before - trigger) + other_before.exp() * (other_before - other)
    given_none = reference[~is_trigger] - other_before
    given_none_here = own[:, ~is_trigger] - other[:, None]
    ordinary = own[:, ordinary_id]
    without = torch.ones_like(is_trigger)
    without[ordinary_id] = False
    columns = (
        logits[:, onset_id],
        own[:, onset_id],
        logits[:, onset_id] - logits[:, ~is_trigger].amax(-1),
        logits[:, onset_id] - logits[:, ordinary_id],
        trigger,
        trigger - other,
        ordinary,
        ordinary - own[:, without].logsumexp(-1),
        (reference.exp() * (reference - own)).sum(-1).clamp(min=0.0),
        two_way.clamp(min=0.0),
        (given_none.exp() * (given_none - given_none_here)).sum(-1).clamp(min=0.0),
    )
    return [NextTokenFigures(*row) for row in torch.stack(columns, dim=-1).tolist()]
