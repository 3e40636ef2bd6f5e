"""Errors that a person can act on.

Every message is one sentence that says what is wrong, where, and what to do. The command line prints it without a
traceback and exits with code 2; inside Dagster it becomes the run's failure message.
"""

import difflib
from collections.abc import Iterable

from backtracking_assets.redaction import redacted

__all__ = [
    "BacktrackingError",
    "BundleError",
    "ChangedCheckpointError",
    "CheckpointError",
    "ExperimentError",
    "HeldDatabaseError",
    "ProblemFileError",
    "RunFolderError",
    "StorageError",
    "UnwritableError",
    "WaitingError",
    "did_you_mean",
]


class BacktrackingError(Exception):
    """Base of all errors that this project raises for a person to read; secrets of the environment are taken out."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class ExperimentError(BacktrackingError):
    """An experiment file is missing, malformed or asks for something impossible."""


class ProblemFileError(BacktrackingError):
    """A problem file is missing, malformed, or holds too few problems."""


class CheckpointError(BacktrackingError):
    """A checkpoint is missing, truncated, or unfit for the experiment."""


class ChangedCheckpointError(CheckpointError):
    """The checkpoint's files are no longer those that a sweep began with: no other cell could be made either."""


class StorageError(BacktrackingError):
    """The journal, the archive or the database cannot be read or written."""


class BundleError(BacktrackingError):
    """A bundle, or the place where it lies, cannot be used."""


class RunFolderError(BacktrackingError):
    """A run folder of another study cannot be imported; nothing of it was stored."""


class HeldDatabaseError(StorageError):
    """Another process holds the database for longer than was waited."""


class UnwritableError(StorageError):
    """The disk is full or read-only: nothing else could be stored either."""


class WaitingError(BacktrackingError):
    """What a layer subset is made of is not there yet; other subsets are not concerned."""

    def __init__(self, subset: str, asset: str, reason: str, remedy: str) -> None:
        super().__init__(f"Layer subset {subset} waits for {asset}: {reason}; {remedy}.")
        self.asset = asset
        self.reason = reason
        self.remedy = remedy


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean a or b?)` with the known names nearest to `name`; empty where none is near."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
