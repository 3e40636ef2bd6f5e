"""Making the database anew beside the one that is there, and putting it in its place once it is whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.archive import archived_condition, archived_fingerprints, archived_keys
from backtracking_assets.storage.commits import commit_condition
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
from backtracking_assets.storage.locks import database_lock, generation_lock
from backtracking_assets.storage.parquet import DamagedFileError
from backtracking_assets.storage.queries import completion_counts, completion_keys
from backtracking_assets.storage.set_aside import set_aside

_NEW_FILE = ".rebuilding.duckdb"

OnCondition = Callable[[int, int], None]
"""Called with the conditions that are done and how many there are."""


@dataclass
class Committed:
    """What went from the archive into the database."""

    completions: dict[str, int] = field(default_factory=dict)
    """Completions of each condition that was committed now, by fingerprint."""
    unchanged: list[str] = field(default_factory=list)
    """Conditions that the database held already."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Why the archive of a condition cannot be used, by fingerprint. The files are set aside."""


def commit_archives(
    layout: StoreLayout, *, run_id: str, on_condition: OnCondition = lambda done, total: None
) -> Committed:
    """Have the database hold every archived condition. A damaged archive is set aside, and the others go on.

    Raises:
        StorageError: the database cannot be written, or the condition of a damaged archive is being generated.
    """
    committed = Committed()
    counts, fingerprints = completion_counts(layout), archived_fingerprints(layout)
    for done, fingerprint in enumerate(fingerprints, start=1):
        try:
            _commit(layout, fingerprint, run_id, committed, known=fingerprint in counts)
        except DamagedFileError:
            # Whoever generates this condition may have replaced the file meanwhile.
            with generation_lock(layout, fingerprint, timeout=0):
                try:
                    _commit(layout, fingerprint, run_id, committed, known=fingerprint in counts)
                except DamagedFileError as damage:
                    committed.damaged[fingerprint] = damage.reason
                    if damage.path.exists():
                        set_aside(layout, damage.path, damage.reason)
        on_condition(done, len(fingerprints))
    return committed


def _commit(layout: StoreLayout, fingerprint: str, run_id: str, committed: Committed, *, known: bool) -> None:
    condition = archived_condition(layout, fingerprint)
    if known and archived_keys(layout, fingerprint) == completion_keys(layout, fingerprint):
        committed.unchanged.append(fingerprint)
        return
    committed.completions[fingerprint] = commit_condition(layout, condition, run_id=run_id)


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
