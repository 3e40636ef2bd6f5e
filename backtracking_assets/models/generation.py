"""The generation engine: decodes one chunk of completions as a batch.

Every kernel shape is a function of the chunk alone (its prompts and what the model answers), never of other work on the
machine, so a chunk made again on the same kind of machine gives the same bytes.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from backtracking_assets.conditions import Intervention
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models.forward_passes import decode_step, prefill
from backtracking_assets.models.interventions import Means, Scaling, applied, decoder_layers
from backtracking_assets.models.memory import is_out_of_memory, out_of_memory_facts, release_memory
from backtracking_assets.models.sampling import row_keys, sample
from backtracking_assets.models.slot_cache import SlotCache, left_padded
from backtracking_assets.records import FinishReason, decode_steps

_COMPACT_BELOW = 0.75
"""Rows that ended are dropped from the batch once fewer than this share of its rows are still decoding."""

_NOT_FINITE = -1
"""Stands for the token of a row whose logits are NaN or infinite."""

_TELL_EVERY_SECONDS = 1.0

OnStep = Callable[[int, int], None]
"""Takes the decode steps of the chunk so far, and how many of its completions are still open."""


@dataclass(frozen=True)
class Request:
    """One completion to make. Requests with the same prompt share one prefill."""

    problem_id: str
    sample_id: int
    prompt_ids: tuple[int, ...]


@dataclass
class Generated:
    """One completion as token ids."""

    request: Request
    token_ids: list[int]
    finish_reason: FinishReason
    n_firings: int
    """What acted, scaled components or the move of the logits, summed over the completion's decode steps."""
    batch_rows: int
    """Completions that were batched together, this one among them."""

    @property
    def n_decode_steps(self) -> int:
        """Decode steps that this completion took part in."""
        return decode_steps(len(self.token_ids), self.finish_reason)


@dataclass(frozen=True)
class Batch:
    """A finished chunk, in the order of its requests."""

    completions: list[Generated]
    seconds: float
    decode_steps: int


def generate(
    model: PreTrainedModel,
    requests: Sequence[Request],
    sampling: Sampling,
    intervention: Intervention | None,
    *,
    stop_ids: frozenset[int],
    pad_id: int,
    means: Means | None = None,
    rows: int | None = None,
    on_step: OnStep | None = None,
) -> Batch:
    """Generate the completions of one chunk.

    The first new token is predicted by prefill, which no intervention touches; a completion of n tokens went through
    n - 1 decode steps. A row whose logits are NaN or infinite ends there with `non_finite`; the others go on.

    Where the device's memory does not hold a batch all the same, it is halved until it fits. Each chunk
    starts whole again: what took up the memory may be gone, and the batches do not depend on what ran before.

    Args:
        model: a causal language model whose attention is `slot_cache.grouped_attention`.
        intervention: None for the baseline.
        stop_ids: tokens that end a completion; they are kept as its last token.
        means: those that the intervention scales towards, if it does.
        rows: completions that are decoded at once, as planned; None for all of the chunk.
        on_step: told how far the chunk is, about once a second. What it raises ends the chunk.

    Raises:
        BacktrackingError: a hooked component did not fire exactly once in a decode step, or not even one completion
            fits into the device's memory.
        CheckpointError: a component of the intervention does not exist.
    """
    started = time.perf_counter()
    finished: list[Generated] = []
    steps, size = 0, len(requests) if rows is None else rows
    with torch.inference_mode(), applied(model, intervention, means) as scaling:
        while len(finished) < len(requests):
            part = requests[len(finished) : len(finished) + size]
            tell = _told_of_chunk(on_step, steps, len(requests) - len(finished) - len(part))
            try:
                # A part that broke off begins anew, so its completions are new ones.
                completions = [Generated(request, [], "length", 0, len(part)) for request in part]
                steps += _Decoding(model, completions, sampling, stop_ids=stop_ids, pad_id=pad_id).run(scaling, tell)
                finished += completions
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise BacktrackingError(
                        f"One completion does not fit into the memory of {model.device}{out_of_memory_facts(error)}; "
                        "lower sampling.max_new_tokens, or end what else runs there."
                    ) from error
            # Outside the handler: while the error lives, its traceback keeps every tensor of the part.
            size = (len(part) + 1) // 2
            release_memory(model.device)
    return Batch(finished, time.perf_counter() - started, steps)


def _told_of_chunk(on_step: OnStep | None, steps_before: int, not_begun: int) -> OnStep | None:
    """What tells of a part in terms of its whole chunk."""
    if on_step is None:
        return None
    return lambda step, n_open: on_step(steps_before + step, n_open + not_begun)


def replay(
    model: PreTrainedModel,
    request: Request,
    token_ids: Sequence[int],
    sampling: Sampling,
    intervention: Intervention | None,
    *,
    pad_id: int,
    means: Means | None = None,
    watching: Callable[[nn.Module], AbstractContextManager[Callable[[int], bool]]],
) -> None:
    """Run a completion's tokens through the model as `generate` did, in a batch of its own.

    Args:
        watching: sets its hooks, behind those of the intervention, and gives what is called after prefill with 0 and
            after each decode step with its number; the replay ends where that returns True.

    Raises:
        BacktrackingError: see `generate`.
    """
    with torch.inference_mode(), applied(model, intervention, means) as scaling, watching(model) as seen_enough:
        row = Generated(request, [], "length", 0, 1)
        decoding = _Decoding(model, [row], sampling, stop_ids=frozenset(), pad_id=pad_id)
        decoding._prefill()
        for step, token in enumerate(token_ids, start=1):
            if seen_enough(step - 1):
                return
            decoding._decode(torch.tensor([token], device=model.device), scaling)
        seen_enough(len(token_ids))


class _Decoding:
    """The state of one chunk while it is decoded."""

    def __init__(
        self,
        model: PreTrainedModel,
        completions: list[Generated],
        sampling: Sampling,
        *,
        stop_ids: frozenset[int],
        pad_id: int,
    ) -> None:
        device = model.device
        self.model = model
        self.sampling = sampling
        self.stop_ids = stop_ids
        self.device = device
        self.rows = completions  # the completion of each slot
        self.ended = [False] * len(completions)
        keys = [(row.request.problem_id, row.request.sample_id) for row in completions]
        self.noise_keys = row_keys(sampling.seed, keys, device)
        prompts = list(dict.fromkeys(row.request.prompt_ids for row in completions))
        self.prompt_ids, padding = left_padded(prompts, pad_id, device)
        place = {prompt: index for index, prompt in enumerate(prompts)}
        self.prompt_of_row = torch.tensor([place[row.request.prompt_ids] for row in completions], device=device)
        self.prompt_padding = padding
        self.padding = padding[self.prompt_of_row]
        capacity = self.prompt_ids.shape[1] + sampling.max_new_tokens
        self.cache = SlotCache(len(decoder_layers(model)), capacity)
        self.columns = torch.arange(capacity, device=device)

    def run(self, scaling: Scaling | None, on_step: OnStep | None) -> int:
        """Prefill, then decode until every row has ended; returns the number of decode steps."""
        if scaling is not None:
            scaling.active = False  # an earlier part of the chunk left it on
        logits = self._prefill()
        steps, told = 0, time.perf_counter()
        while True:
            tokens = self._draw(logits, steps)
            if all(self.ended):
                return steps
            tokens = self._drop_ended(tokens)
            logits = self._decode(tokens, scaling)
            steps += 1
            if on_step is not None and time.perf_counter() - told >= _TELL_EVERY_SECONDS:
                told = time.perf_counter()
                on_step(steps, self.ended.count(False))

    def _prefill(self) -> torch.Tensor:
        """Logits after each row's prompt, `[rows, vocab]`."""
        logits = prefill(self.model, self.prompt_ids, self.prompt_padding, self.cache)
        self.cache.take(self.prompt_of_row)
        return logits[self.prompt_of_row]

    def _draw(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """Draw each row's next token and end the rows that are done; returns the tokens, `[rows]`."""
        finite = torch.isfinite(logits).all(dim=-1)
        tokens = sample(
            torch.where(finite[:, None], logits, 0.0),
            self.noise_keys,
            step,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
        )
        # One transfer to the host a step: it waits for the device.
        drawn: list[int] = torch.where(finite, tokens, _NOT_FINITE).tolist()
        for slot, (row, token) in enumerate(zip(self.rows, drawn, strict=True)):
            if self.ended[slot]:
                continue
            if token == _NOT_FINITE:
                row.finish_reason = "non_finite"
                self.ended[slot] = True
                continue
            row.token_ids.append(token)
            if token in self.stop_ids:
                row.finish_reason = "eos"
                self.ended[slot] = True
            elif len(row.token_ids) == self.sampling.max_new_tokens:
                self.ended[slot] = True
        return tokens

    def _drop_ended(self, tokens: torch.Tensor) -> torch.Tensor:
        """Take ended rows out of the batch once enough of them have gathered; returns the remaining rows' tokens."""
        open_slots = [slot for slot, ended in enumerate(self.ended) if not ended]
        if len(open_slots) >= _COMPACT_BELOW * len(self.rows):
            return tokens
        kept = torch.tensor(open_slots, device=self.device)
        self.rows = [self.rows[slot] for slot in open_slots]
        self.ended = [False] * len(open_slots)
        self.noise_keys = self.noise_keys[kept]
        self.padding = self.padding[kept]
        self.cache.take(kept)
        return tokens[kept]

    def _decode(self, tokens: torch.Tensor, scaling: Scaling | None) -> torch.Tensor:
        """One decode step of every row in the batch; returns logits, `[rows, vocab]`."""
        logits = decode_step(self.model, tokens, self.padding, self.cache, self.columns, scaling)
        if scaling is not None:
            for row, ended in zip(self.rows, self.ended, strict=True):
                if not ended:
                    row.n_firings += scaling.n_fired
        return logits
