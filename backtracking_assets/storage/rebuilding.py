"""Making the database anew beside the one that is there, and putting it in its place once it is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.database import (
    DEFAULT_WAIT,
    ORPHAN_LOG,
    UnusableDatabaseError,
    reading,
    refuse_held,
    writing,
)
from backtracking_assets.storage.durable import flush
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.locks import database_lock
from backtracking_assets.storage.set_aside import set_aside

_NEW_FILE = ".rebuilding.duckdb"


@contextmanager
def rebuilding(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> Iterator[StoreLayout]:
    """A layout of the same folder with a new, empty database, which takes the place of the old one after the block.

    The old file goes to `set_aside/`, with its log, and is never changed. If the block raises or the process dies, the
    old one stays in place. No other process writes the database meanwhile.

    Raises:
        StorageError: another process has the database open or writes it, or the disk is full.
    """
    new = replace(layout, database_file=_NEW_FILE)
    with database_lock(layout, timeout=wait):
        refuse_held(layout)
        _remove(new)  # what a rebuild that was killed left
        try:
            with writing(new):
                pass
            yield new
            # Closing the last connection has folded the log into the file, or the new database would not be one file.
            if new.database_log.exists():
                raise StorageError(f"The new database {new.database} is not whole; the old one was left as it is.")
            try:
                flush(new.database)
                _keep_old(layout)
                new.database.replace(layout.database)
                flush(layout.root)
            except OSError as error:
                raise StorageError(f"{layout.database} cannot be replaced: {error.strerror}.") from error
        finally:
            _remove(new)


def unusable_because(layout: StoreLayout) -> str | None:
    """Why the database cannot be used, in one sentence; None where it can, as far as opening it tells."""
    try:
        with reading(layout, wait=0):
            return None
    except UnusableDatabaseError as error:
        return str(error)


def _keep_old(layout: StoreLayout) -> None:
    """Have the old database and its log in `set_aside/`; the database also stays, for the new one to replace."""
    if not layout.database.exists():
        if layout.database_log.exists():
            set_aside(layout, layout.database_log, ORPHAN_LOG)
        return
    damage = unusable_because(layout)
    reason = "replaced by a database that was made anew from the archive" + (f". {damage}" if damage else "")
    set_aside(layout, layout.database, reason, stay=True)
    if layout.database_log.exists():
        # It must be gone before another database stands beside it. A process that dies here leaves the old database
        # as it was before the last transaction, which the next sweep or rebuild repeats from the archive.
        set_aside(layout, layout.database_log, f"the log of {layout.database.name}, which was {reason}")


def _remove(layout: StoreLayout) -> None:
    for path in (layout.database, layout.database_log):
        path.unlink(missing_ok=True)
