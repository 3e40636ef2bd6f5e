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
from backtracking_assets.models.chunk_state import ChunkState, finished_in, go_on_from, state_of
from backtracking_assets.models.decoding import Decoding, OnStep, Request
from backtracking_assets.models.generated import Generated
from backtracking_assets.models.interventions import Means, Scaling, applied
from backtracking_assets.models.memory import is_out_of_memory, out_of_memory_facts, release_memory
from backtracking_assets.models.static_decoding import decoding_for
from backtracking_assets.records import decode_steps

__all__ = ["Batch", "Generated", "OnStep", "Request", "generate", "replay"]

_TELL_EVERY_SECONDS = 1.0

OnState = Callable[[Callable[[], ChunkState]], None]
"""Takes what takes the state of the chunk; taking it costs time and memory, and is left to whoever keeps it."""


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
    on_state: OnState | None = None,
    resume_from: ChunkState | None = None,
) -> Batch:
    """Generate the completions of one chunk.

    The first new token is predicted by prefill, which no intervention touches; a completion of n tokens went through
    n - 1 decode steps. A row whose logits are NaN or infinite ends there with `non_finite`; the others go on.

    Where the device's memory does not hold a batch all the same, it is halved until it fits. Each chunk starts whole
    again: what took up the memory may be gone, and the batches do not depend on what ran before.

    Args:
        model: a causal language model whose attention is `slot_cache.grouped_attention`.
        intervention: None for the baseline.
        stop_ids: tokens that end a completion; they are kept as its last token.
        means: those that the intervention scales towards, if it does.
        rows: completions that are decoded at once, as planned; None for all of the chunk.
        on_step: told how far the chunk is, about once a second. What it raises ends the chunk.
        on_state: given between two steps what takes the chunk's state, from which it can be resumed.
        resume_from: a state of the same requests under the same intervention; what it holds is not made again. On a
            CPU the completions are the bytes of those that were never interrupted.

    Raises:
        BacktrackingError: a hooked component did not fire exactly once in a decode step, or not even one completion
            fits into the device's memory.
        CheckpointError: a component of the intervention does not exist.
    """
    started = time.perf_counter()
    finished: list[Generated] = []
    steps, size = 0, len(requests) if rows is None else rows
    if resume_from is not None:
        finished, started = finished_in(resume_from, requests), started - resume_from.facts["seconds"]
        steps, size = int(resume_from.facts["steps_before"]), int(resume_from.facts["size"])
    with torch.inference_mode(), applied(model, intervention, means) as scaling:
        while len(finished) < len(requests):
            part = requests[len(finished) : len(finished) + size]
            tell = _told_of_chunk(on_step, steps, len(requests) - len(finished) - len(part))
            try:
                # Its tensors are gone when it has failed, or when the next part begins.
                steps += _generate_part(
                    decoding_for(model, part, sampling, stop_ids=stop_ids, pad_id=pad_id),
                    scaling,
                    tell,
                    finished,
                    resume_from,
                    _state_given(on_state, finished, size, steps, started),
                )
                resume_from = None
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
            resume_from = None
            size = (len(part) + 1) // 2
            release_memory(model.device)
    return Batch(finished, time.perf_counter() - started, steps)


def _state_given(
    on_state: OnState | None, finished: list[Generated], size: int, steps: int, started: float
) -> Callable[[Decoding], None]:
    """What gives the state of a chunk, whose batch at work it is told, to whoever wants it."""
    if on_state is None:
        return lambda decoding: None

    def give(decoding: Decoding) -> None:
        def take() -> ChunkState:
            return state_of(decoding, finished, size=size, steps_before=steps, seconds=time.perf_counter() - started)

        on_state(take)

    return give


def _told_of_chunk(on_step: OnStep | None, steps_before: int, not_begun: int) -> OnStep:
    """What tells of a part in terms of its whole chunk, about once a second."""
    told = time.perf_counter()

    def tell(step: int, n_open: int) -> None:
        nonlocal told
        if on_step is not None and time.perf_counter() - told >= _TELL_EVERY_SECONDS:
            told = time.perf_counter()
            on_step(steps_before + step, n_open + not_begun)

    return tell


def _generate_part(
    decoding: Decoding,
    scaling: Scaling | None,
    tell: OnStep,
    finished: list[Generated],
    resume_from: ChunkState | None,
    give_state: Callable[[Decoding], None],
) -> int:
    """Run a decoding and add its completions to those that are finished; returns the number of decode steps."""
    if resume_from is not None:
        go_on_from(decoding, resume_from, scaling)
    steps = decoding.run(scaling, tell, lambda: give_state(decoding))
    for request, (tokens, reason) in zip(decoding.requests, decoding.ended_rows(), strict=True):
        n_firings = decoding.fired_until[decode_steps(len(tokens), reason)]
        finished.append(Generated(request, tokens, reason, n_firings, len(decoding.requests)))
    return steps


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
        decoding = Decoding(model, [request], sampling, stop_ids=frozenset(), pad_id=pad_id)
        decoding.prefill()
        for step, token in enumerate(token_ids, start=1):
            if seen_enough(step - 1):
                return
            decoding.last[0] = token
            decoding.decode(scaling)
        seen_enough(len(token_ids))
