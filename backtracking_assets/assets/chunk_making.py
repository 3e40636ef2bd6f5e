"""Making one chunk: from where it broke off, kept about once a minute, and its completions as rows."""

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

from backtracking_assets.assets.loaded import means_for, prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.conditions import Condition, digest
from backtracking_assets.errors import StorageError
from backtracking_assets.execution.devices import device_name
from backtracking_assets.models.memory_plan import MemoryPlan
from backtracking_assets.storage.chunk_progress import ChunkProgress, read_progress, write_progress
from backtracking_assets.storage.chunks import Chunk
from backtracking_assets.storage.layout import StoreLayout

if TYPE_CHECKING:
    from backtracking_assets.models.chunk_state import ChunkState
    from backtracking_assets.models.generation import Batch, OnStep
    from backtracking_assets.models.loading import LoadedModel

_PAUSE = 20.0
"""Times the last one took that at least pass before a chunk is kept again: keeping it costs a twentieth at most."""


def generate_chunk(
    opened: OpenExperiment,
    loaded: "LoadedModel",
    condition: Condition,
    chunk: Chunk,
    plan: MemoryPlan,
    on_step: "OnStep",
    log: Callable[[str], None],
) -> "Batch":
    """Generate a chunk's completions, from where an interrupted run has left them.

    Raises:
        BacktrackingError: see `models.generation.generate`; the state of the chunk cannot be read or set aside.
    """
    from backtracking_assets.models.generation import Request, generate

    prompt_of, fingerprint = prompts(opened), condition.fingerprint
    made_with = _made_with(opened, loaded, chunk, plan)
    keeper = _Keeper(opened.layout, fingerprint, chunk, made_with, opened.experiment.generation.save_seconds, log)
    return generate(
        loaded.model,
        [Request(problem_id, sample_id, prompt_of[problem_id].token_ids) for problem_id, sample_id in chunk.keys],
        opened.experiment.sampling,
        condition.intervention,
        stop_ids=loaded.stop_ids,
        pad_id=loaded.pad_id,
        means=means_for(opened, condition.intervention),
        rows=plan.rows,
        on_step=on_step,
        on_state=keeper.keep,
        resume_from=keeper.kept(opened.experiment.sampling.max_new_tokens),
    )


class _Keeper:
    """Keeps how far a chunk is, so that a crash costs about as much work as lies between two times."""

    def __init__(
        self,
        layout: StoreLayout,
        fingerprint: str,
        chunk: Chunk,
        made_with: str,
        every: float,
        log: Callable[[str], None],
    ) -> None:
        self._place = layout, fingerprint, chunk, made_with
        self._every = every
        self._log = log
        self._due = time.monotonic() + every

    def kept(self, max_new_tokens: int) -> "ChunkState | None":
        """What an interrupted run has left of this chunk; None where there is nothing to go on from."""
        progress = read_progress(*self._place)
        if progress is None:
            return None
        from backtracking_assets.models.chunk_state import ChunkState

        state = ChunkState(progress.facts, progress.arrays)
        of_rows = f"{int(state.facts['rows'])} completions at once"
        done = f"; {int(state.facts['finished'])} are done" if state.facts["finished"] else ""
        self._log(
            f"Chunk {self._place[2].chunk_id} goes on at step {int(state.facts['step']):,} of at most "
            f"{max_new_tokens - 1:,}, {of_rows}{done}."
        )
        return state

    def keep(self, take: "Callable[[], ChunkState]") -> None:
        """Keep the state of the chunk if it is time to."""
        started = time.monotonic()
        if started < self._due:
            return
        try:
            state = take()
            write_progress(*self._place, ChunkProgress(state.facts, state.arrays))
        except StorageError as error:
            # The chunk itself is smaller, and by then there may be room for it.
            self._log(f"How far the chunk is could not be kept, and it goes on without: {error}")
            self._due = float("inf")
            return
        ended = time.monotonic()
        self._due = ended + max(self._every, _PAUSE * (ended - started)) if self._every else ended


def _made_with(opened: OpenExperiment, loaded: "LoadedModel", chunk: Chunk, plan: MemoryPlan) -> str:
    """Digest of what decides a chunk's bytes beside its condition and its keys, and so whether it can go on."""
    from backtracking_assets.models.chunk_state import STATE_VERSION

    prompt_of = prompts(opened)
    return digest(
        {
            "state": STATE_VERSION,
            "prompts": [prompt_of[problem_id].token_ids for problem_id, _ in chunk.keys],
            "rows": plan.rows,
            "device": device_name(str(loaded.model.device)),
            "threads": opened.experiment.generation.threads,
            "stop_ids": sorted(loaded.stop_ids),
            "pad_id": loaded.pad_id,
            "versions": {package: version(package) for package in ("torch", "transformers")},
        }
    )


def completion_rows(
    opened: OpenExperiment, loaded: "LoadedModel", condition: Condition, chunk: Chunk, batch: "Batch"
) -> list[dict[str, object]]:
    """A chunk's completions by column of `records.COMPLETIONS`, but for who made them where and when."""
    from backtracking_assets.models.detokenize import text_and_starts

    prompt_of = prompts(opened)
    rows: list[dict[str, object]] = []
    for completion in batch.completions:
        request = completion.request
        text, starts = text_and_starts(loaded.tokenizer, completion.token_ids)
        rows.append(
            {
                "fingerprint": condition.fingerprint,
                "problem_id": request.problem_id,
                "sample_id": request.sample_id,
                "prompt_sha256": prompt_of[request.problem_id].sha256,
                "text": text,
                "token_ids": completion.token_ids,
                "token_starts": starts,
                "n_prompt_tokens": len(request.prompt_ids),
                "n_tokens": len(completion.token_ids),
                "finish_reason": completion.finish_reason,
                "n_firings": completion.n_firings,
                "chunk_id": chunk.chunk_id,
                "chunk_seconds": batch.seconds,
                "batch_rows": completion.batch_rows,
            }
        )
    return rows
