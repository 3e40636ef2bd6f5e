"""Noticing that a checkpoint changes on disk while cells are made from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backtracking_assets.errors import ChangedCheckpointError
from backtracking_assets.models.checkpoint import Checkpoint, changed_file

_held: list[Checkpoint] = []
"""Checkpoints that sweeps of this process began with."""


@contextmanager
def holding_checkpoint(checkpoint: Checkpoint) -> Iterator[None]:
    """Have every asset that this process materializes within the block refuse another content of this checkpoint."""
    _held.append(checkpoint)
    try:
        yield
    finally:
        _held.remove(checkpoint)


def refuse_other_checkpoint(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that was inspected now and is another one than when the sweep began.

    Raises:
        ChangedCheckpointError: see `refuse_changed_checkpoint`.
    """
    for began in _held:
        digests = (began.weights_digest, began.tokenizer_digest)
        if began.folder == checkpoint.folder and digests != (checkpoint.weights_digest, checkpoint.tokenizer_digest):
            raise _changed(checkpoint, min(state.name for state in set(began.files) ^ set(checkpoint.files)))


def refuse_changed_checkpoint(checkpoint: Checkpoint, cache_dir: Path) -> None:
    """Refuse to go on if a checkpoint's files are not what they were when it was inspected.

    Before a chunk becomes durable this says that its completions are of the weights that their condition names: the
    model in memory may be mapped to the file, and follow what is written into it.

    Raises:
        ChangedCheckpointError: they have changed. The sentence says what is safe and what to do.
    """
    name = changed_file(checkpoint, cache_dir)
    if name is not None:
        raise _changed(checkpoint, name)


def _changed(checkpoint: Checkpoint, name: str) -> ChangedCheckpointError:
    return ChangedCheckpointError(
        f"The checkpoint {checkpoint.folder} has changed since this run began ({name}); nothing of what the changed "
        "weights generated was stored, and the chunks and cells that were finished before are safe: put the former "
        "files back and run the same command again to go on, or run it as it is to make every cell anew from the "
        "changed checkpoint."
    )
