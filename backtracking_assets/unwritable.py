"""What to say where a file cannot be written: that the disk is full or read-only, what is safe, what to do."""

import errno
import shutil
import tempfile
from pathlib import Path

from backtracking_assets.errors import StorageError, UnwritableError

SAFE = "finished chunks and stored cells are safe"

_PROBED_BYTES = 256 * 2**10

_REASONS = {
    errno.ENOSPC: ("is full", "free some space there"),
    errno.EDQUOT: ("has no quota left for this user", "free some space there"),
    errno.EROFS: ("is read-only", "make it writable"),
}
_IN_TEXT = {
    "No space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
    "attempt to write a readonly database": errno.EROFS,
}


def cannot_write(path: Path, error: OSError) -> StorageError:
    """The error to raise where the system refused to write a file or a folder."""
    if error.errno is not None and is_disk_error(error):
        return disk_error(path, error.errno)
    return StorageError(f"{path} cannot be written: {error.strerror or error}; {SAFE}.")


def is_disk_error(error: OSError) -> bool:
    """Whether the system refused because the disk is full or read-only."""
    return error.errno in _REASONS


def disk_error_in(path: Path, text: str, what: str = "") -> UnwritableError | None:
    """The error to raise where a library's message says that the disk under `path` is full or read-only; else None."""
    return next((disk_error(path, number, what) for words, number in _IN_TEXT.items() if words in text), None)


def disk_error(path: Path, number: int, what: str = "") -> UnwritableError:
    """That the disk under `path` refuses what was to be written to it (the file, or `what`), by the error number."""
    state, remedy = _REASONS[number]
    return UnwritableError(
        f"The disk of {path.parent} {state}{_free(path) if number == errno.ENOSPC else ''}, and {what or path.name} "
        f"cannot be written; {SAFE}: {remedy}, then run the same command again, which goes on from there."
    )


def refusal(folder: Path) -> OSError | None:
    """What the system says when a little is written into a folder; None where it can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBED_BYTES))
            probe.flush()
    except OSError as error:
        return error
    return None


def _free(path: Path) -> str:
    """` (0.2 of 64.0 MiB are free)`; empty where it cannot be told."""
    folder = next((parent for parent in path.parents if parent.is_dir()), None)
    if folder is None:
        return ""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return ""
    return f" ({usage.free / 2**20:.1f} of {usage.total / 2**20:,.1f} MiB are free)"
