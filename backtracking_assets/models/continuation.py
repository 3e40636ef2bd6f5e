"""What a model makes of given prefixes while components are scaled: its next-token distribution, and continuations.

The prefix is read without intervention up to its last token. That token is one decode step, in which the components are
scaled, and which predicts the next token. The reading of a batch of prefixes is done once and serves all interventions.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from backtracking_assets.conditions import Intervention
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models.forward_passes import decode_step, prefill
from backtracking_assets.models.interventions import Means, Scaling, applied, decoder_layers
from backtracking_assets.models.memory import out_of_memory_facts
from backtracking_assets.models.sampling import continuation_keys, row_keys, sample
from backtracking_assets.models.slot_cache import SlotCache, left_padded
from backtracking_assets.records import ScaledAt

_DRAWN_AT_ONCE = 128

Settled = Callable[[int, tuple[int, ...]], bool]
"""Takes the index of a prefix and new tokens; whether what follows them no longer matters."""


@dataclass(frozen=True)
class Prefix:
    """A prompt and the beginning of its completion, at the end of which the next token is predicted."""

    problem_id: str
    sample_id: int
    token_index: int
    """Tokens of the completion in the prefix; at least 1."""
    token_ids: tuple[int, ...]
    """Prompt and beginning."""
    onset_token_id: int
    """The token whose probability and rank are wanted."""
    drawn_token_id: int
    """The token that the baseline drew here."""
    continuations: int
    """How often the prefix is continued; 0 for not at all."""


@dataclass(frozen=True)
class NextToken:
    """The distribution of the next token at temperature 1, from the raw logits."""

    onset_probability: float
    onset_rank: int
    """1 is the most probable; equals share the better rank."""
    trigger_probability: float
    entropy: float
    """Nats."""
    same_draw: bool
    """Whether the baseline's noise draws the baseline's token from this distribution, tempered and cut as it was."""


@dataclass(frozen=True)
class Outcome:
    """What one intervention makes of a batch of prefixes, each list in their order."""

    next_tokens: list[NextToken]
    continuations: dict[ScaledAt, list[list[tuple[int, ...]]]]
    """New tokens by where components were scaled, then by prefix, then by number of the continuation."""


@dataclass(frozen=True)
class ReadingSettings:
    """How prefixes are read: the same for all of them."""

    sampling: Sampling
    """Of the continuations, which `max_new_tokens` bounds; temperature, nucleus and seed are the baseline's."""
    trigger_ids: Collection[int]
    stop_ids: frozenset[int]
    pad_id: int
    means: Means | None = None
    """Those that interventions scale towards, where one does."""
    settled: Settled = field(default=lambda index, tokens: False)
    """Ends a continuation early; saves work and must not change what is read from it."""


def continue_prefixes(
    model: PreTrainedModel,
    prefixes: Sequence[Prefix],
    interventions: Sequence[Intervention | None],
    reading: ReadingSettings,
) -> list[Outcome]:
    """What each intervention makes of one batch of prefixes; None is the run without any.

    Continuations without intervention are `nowhere`; under one, each prefix is continued scaled at `one_position`, the
    one before its first new token, and scaled `from_there_on`. They share their noise, which depends on the prefix's
    key, the number of the continuation and the step.

    Raises:
        BacktrackingError: a prefix has no token of its completion, logits are NaN or infinite, a component did not fire
            exactly once in a decode step, or the device's memory is used up.
        CheckpointError: a component of an intervention does not exist.
    """
    for prefix in prefixes:
        if prefix.token_index < 1:
            raise BacktrackingError(f"The first token of {_name(prefix)} is predicted by prefill; nothing acts there.")
    outcomes: list[Outcome] = []
    try:
        with torch.inference_mode():
            batch = _Batch(model, prefixes, reading)
            for intervention in interventions:
                with applied(model, intervention, reading.means) as scaling:
                    outcomes.append(batch.outcome(scaling))
    except torch.OutOfMemoryError as error:
        raise BacktrackingError(
            f"{len(prefixes)} prefixes and their continuations do not fit into the memory of {model.device}"
            f"{out_of_memory_facts(error)}; lower generation.completions_per_chunk or continuation.continuations."
        ) from error
    return outcomes


class _Batch:
    """Prefixes that were read up to their last token."""

    def __init__(self, model: PreTrainedModel, prefixes: Sequence[Prefix], reading: ReadingSettings) -> None:
        device = model.device
        self.model, self.prefixes, self.reading, self.device = model, prefixes, reading, device
        read, self.padding = left_padded([prefix.token_ids[:-1] for prefix in prefixes], reading.pad_id, device)
        self.length = read.shape[1]
        capacity = self.length + 1 + reading.sampling.max_new_tokens
        self.columns = torch.arange(capacity, device=device)
        self.cache = SlotCache(len(decoder_layers(model)), capacity)
        prefill(model, read, self.padding, self.cache)
        self.last = torch.tensor([prefix.token_ids[-1] for prefix in prefixes], device=device)
        self.slots = [(row, number) for row, p in enumerate(prefixes) for number in range(p.continuations)]
        keys = [
            (prefixes[row].problem_id, prefixes[row].sample_id, prefixes[row].token_index, n) for row, n in self.slots
        ]
        self.noise_keys = continuation_keys(reading.sampling.seed, keys, device)

    def outcome(self, scaling: Scaling | None) -> Outcome:
        self.cache.rewind(self.length)
        logits = decode_step(self.model, self.last, self.padding, self.cache, self.columns, scaling)
        self._refuse_non_finite(logits, self.prefixes)
        next_tokens = self._next_tokens(logits)
        if scaling is None:
            return Outcome(next_tokens, {"nowhere": self._continuations(logits, None)})
        scaling.active = False
        once = self._continuations(logits, None)
        return Outcome(next_tokens, {"one_position": once, "from_there_on": self._continuations(logits, scaling)})

    def _next_tokens(self, logits: torch.Tensor) -> list[NextToken]:
        sampling = self.reading.sampling
        log_probabilities = torch.log_softmax(logits.double(), dim=-1)
        probabilities = log_probabilities.exp()
        onsets = torch.tensor([prefix.onset_token_id for prefix in self.prefixes], device=self.device)[:, None]
        triggers = torch.tensor(sorted(self.reading.trigger_ids), device=self.device)
        own = log_probabilities.gather(-1, onsets)
        columns = (
            own.exp()[:, 0].tolist(),
            ((log_probabilities > own).sum(dim=-1) + 1).tolist(),
            probabilities[:, triggers].sum(dim=-1).tolist(),
            torch.special.entr(probabilities).sum(dim=-1).tolist(),
        )
        draws = [
            # Each completion is at a step of its own.
            int(sample(one, key, p.token_index, temperature=sampling.temperature, top_p=sampling.top_p))
            for one, key, p in zip(logits.split(1), self._baseline_keys().split(1), self.prefixes, strict=True)
        ]
        return [
            NextToken(probability, rank, trigger_probability, entropy, draw == prefix.drawn_token_id)
            for probability, rank, trigger_probability, entropy, draw, prefix in zip(
                *columns, draws, self.prefixes, strict=True
            )
        ]

    def _baseline_keys(self) -> torch.Tensor:
        keys = [(prefix.problem_id, prefix.sample_id) for prefix in self.prefixes]
        return row_keys(self.reading.sampling.seed, keys, self.device)

    def _continuations(self, logits: torch.Tensor, scaling: Scaling | None) -> list[list[tuple[int, ...]]]:
        """Continue each prefix from the logits at its end; scaled from the next step on if a scaling is given.

        Continuations of one prefix that drew the same tokens so far are one row of the batch.
        """
        sampling, reading = self.reading.sampling, self.reading
        new: list[tuple[int, ...]] = [() for _ in self.slots]
        open_slots = list(range(len(self.slots)))
        paths: list[tuple[int, tuple[int, ...]]] = []  # prefix and new tokens of each row to come
        cache, padding = self.cache, self.padding
        # The row of each prefix and its new tokens.
        row_of: dict[tuple[int, tuple[int, ...]], int] = {(row, ()): row for row in range(len(self.prefixes))}
        for step in range(sampling.max_new_tokens):
            if not open_slots:
                break
            if step:
                parents = [row_of[prefix, tokens[:-1]] for prefix, tokens in paths]
                kept = torch.tensor(parents, device=self.device)
                if step == 1:
                    cache = self.cache.copy_of(kept)  # what was read serves the other interventions as well
                elif parents != list(range(len(row_of))):
                    cache.take(kept)
                padding = padding[kept]
                tokens_now = torch.tensor([tokens[-1] for _, tokens in paths], device=self.device)
                row_of = {path: row for row, path in enumerate(paths)}
                logits = decode_step(self.model, tokens_now, padding, cache, self.columns, scaling)
                if scaling is not None:
                    scaling.active = False
            rows = torch.tensor([row_of[self.slots[slot][0], new[slot]] for slot in open_slots], device=self.device)
            self._refuse_non_finite(logits[rows], [self.prefixes[self.slots[slot][0]] for slot in open_slots])
            drawn = self._drawn(logits[rows], open_slots, step)
            still_open = []
            for slot, token in zip(open_slots, drawn, strict=True):
                new[slot] = (*new[slot], token)
                if token not in reading.stop_ids and not reading.settled(self.slots[slot][0], new[slot]):
                    still_open.append(slot)
            open_slots = still_open
            paths = list(dict.fromkeys((self.slots[slot][0], new[slot]) for slot in open_slots))
        found: list[list[tuple[int, ...]]] = [[] for _ in self.prefixes]
        for (prefix, _), tokens in zip(self.slots, new, strict=True):
            found[prefix].append(tokens)
        return found

    def _drawn(self, logits: torch.Tensor, slots: Sequence[int], step: int) -> list[int]:
        """The next token of each continuation, from logits of its own."""
        sampling, keys = self.reading.sampling, self.noise_keys[slots]
        # In parts: the noise of a large vocabulary, as 64-bit numbers, is larger than the logits.
        parts = [
            sample(some, some_keys, step, temperature=sampling.temperature, top_p=sampling.top_p)
            for some, some_keys in zip(logits.split(_DRAWN_AT_ONCE), keys.split(_DRAWN_AT_ONCE), strict=True)
        ]
        return torch.cat(parts).tolist()

    @staticmethod
    def _refuse_non_finite(logits: torch.Tensor, prefixes: Sequence[Prefix]) -> None:
        finite = torch.isfinite(logits).all(dim=-1)
        if not finite.all():
            prefix = prefixes[int((~finite).int().argmax())]
            raise BacktrackingError(
                f"The logits behind token {prefix.token_index} of {_name(prefix)} are NaN or infinite; nothing was "
                "stored. Set model.dtype to float32, or leave the subset out of continuation.cells."
            )


def _name(prefix: Prefix) -> str:
    return f"problem {prefix.problem_id!r}, sample {prefix.sample_id}"
