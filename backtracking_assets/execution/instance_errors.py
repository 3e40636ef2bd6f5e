"""What Dagster's own store says when it cannot be written, as one sentence."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from backtracking_assets.errors import StorageError
from backtracking_assets.unwritable import disk_error, disk_error_in, is_disk_error, refusal

_WHAT = "what Dagster records of its runs"
_KEPT = "The completions, and the cells that were committed, are safe in the output folder"


def instance_error(error: BaseException) -> StorageError | None:
    """The error to raise in place of one that Dagster's databases or files raised; None where it is another one."""
    home = Path(os.environ.get("DAGSTER_HOME", "Dagster's folder"))
    for cause in _chain(error):
        if isinstance(cause, sqlite3.Error):
            reason = str(cause)
            told = disk_error_in(home / "storage", reason, _WHAT)
            if told is not None:
                return told
            # SQLite says `disk I/O error` where a file that it maps cannot grow.
            refused = refusal(home)
            if refused is not None and refused.errno is not None and is_disk_error(refused):
                return disk_error(home / "storage", refused.errno, _WHAT)
            return StorageError(
                f"Dagster's database in {home} cannot be used ({reason}). {_KEPT}: end what else uses that folder, or "
                "set DAGSTER_HOME to a new one, then run the same command again."
            )
        if isinstance(cause, OSError) and is_disk_error(cause) and _lies_in(home, cause.filename):
            assert cause.errno is not None
            return disk_error(home / "storage", cause.errno, _WHAT)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _lies_in(home: Path, name: object) -> bool:
    """Whether a file is Dagster's. Some errors name none; then it is, if nothing can be written there."""
    if name is None:
        return refusal(home) is not None
    return isinstance(name, str) and Path(name).is_relative_to(home)
