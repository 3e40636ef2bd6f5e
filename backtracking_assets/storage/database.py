"""Short connections to the database.

DuckDB lets one process write, or several read, and refuses every other at once instead of having it wait. So
connections are opened late, closed early, and tried again for a bounded time; writers queue on a lock file.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import duckdb

from backtracking_assets.errors import HeldDatabaseError, StorageError
from backtracking_assets.fault_points import reached
from backtracking_assets.storage.attaching import AttachedHereError, Use, attach, kept_here
from backtracking_assets.storage.durable import remove_stale_temporaries, write_durably
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.locks import database_lock
from backtracking_assets.storage.set_aside import set_aside
from backtracking_assets.storage.tables import SCHEMA_VERSION, create_statements
from backtracking_assets.unwritable import disk_error_in

DEFAULT_WAIT = 30.0
"""Seconds that a connection is tried for while another process holds the database."""

ORPHAN_LOG = "a write-ahead log without its database, which was moved or removed"

_POLL = 0.05
_HOLDER = re.compile(r"held in (?P<program>.+?) \(PID (?P<pid>\d+)\)")
_DAMAGE = re.compile("Corrupt|Could not read enough bytes|Failure while replaying WAL|not a valid DuckDB")
_MAGIC = slice(8, 12), b"DUCK"
"""Where every DuckDB file says that it is one."""


class UnusableDatabaseError(StorageError):
    """The database file is damaged, of another version, or is no database of this project. It is left as it is."""


@contextmanager
def reading(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection; to an empty database in memory where nothing has been written yet.

    Raises:
        HeldDatabaseError: another process holds the database for longer than `wait` seconds.
        UnusableDatabaseError: it is damaged or of another version.
        StorageError: a statement fails.
    """
    if not layout.database.exists():
        with duckdb.connect(":memory:") as connection:
            _create_tables(connection)
            yield connection
        return
    with _opened(layout, read_only=True, deadline=time.monotonic() + wait, wait=wait) as connection:
        yield connection


@contextmanager
def writing(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection inside one transaction, committed at the end of the block and rolled back if the block raises.

    Makes the database if there is none. Do not open another connection of this process inside the block.

    Raises:
        StorageError: see `reading`; nothing of the block is kept then.
    """
    with _to_write(layout, wait) as connection:
        connection.begin()
        try:
            yield connection
            reached("transaction open")
            connection.commit()
            reached("transaction committed")
        except BaseException:
            # After a fatal error there is no transaction left to roll back; the first error is the one to show.
            with suppress(duckdb.Error):
                connection.rollback()
            raise


@contextmanager
def kept_open(layout: StoreLayout, *, wait: float = DEFAULT_WAIT) -> Iterator[None]:
    """Keep the database open between blocks that read and write, each of which would open it anew.

    Each block that writes is a transaction of its own, durable when it ends. No other process can read meanwhile:
    nothing that takes long, such as generation, belongs inside, nor another block of this kind.

    Raises:
        StorageError: see `reading`.
    """
    with _to_write(layout, wait, keep=True):
        yield


@contextmanager
def _to_write(layout: StoreLayout, wait: float, *, keep: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    deadline = time.monotonic() + wait
    with nullcontext() if kept_here(layout.database) else database_lock(layout, timeout=wait):
        if not layout.database.exists():
            _create(layout)
        with _opened(layout, read_only=False, keep=keep, deadline=deadline, wait=wait) as connection:
            yield connection


def _create(layout: StoreLayout) -> None:
    """Put an empty database in place at once, so that no reader meets one without its tables."""
    remove_stale_temporaries(layout.root)
    if layout.database_log.exists():
        set_aside(layout, layout.database_log, ORPHAN_LOG)

    def fill(path: Path) -> None:
        with duckdb.connect(str(path)) as connection:
            _create_tables(connection)
            # On a full disk, closing leaves the tables in the write-ahead log without a word; this raises.
            connection.execute("checkpoint")

    try:
        write_durably(layout.database, fill, "database")
    except duckdb.Error as error:
        raise disk_error_in(layout.database, str(error)) or StorageError(
            f"The database {layout.database} cannot be made: {_first_line(error)}."
        ) from error


def _create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    for statement in create_statements():
        connection.execute(statement)


@contextmanager
def _opened(
    layout: StoreLayout, *, read_only: bool, keep: bool = False, deadline: float, wait: float
) -> Iterator[duckdb.DuckDBPyConnection]:
    use = _connect(layout, read_only, deadline, wait, keep=keep)
    failed = False
    try:
        try:
            if use.first:
                _check_version(layout, use.connection)
            yield use.connection
        except BaseException:
            failed = True
            raise
        finally:
            use.close(failed=failed)
    except duckdb.Error as error:
        outcome = (
            "could not answer"
            if read_only
            else "could not be let go; what was committed before is kept"
            if keep
            else "refused a statement, and nothing of the transaction was kept"
        )
        said = f"The database {layout.database} {outcome}: {_first_line(error)}"
        if _DAMAGE.search(str(error)):
            raise UnusableDatabaseError(f"{said}. The file is damaged: {_remedy(layout)}.") from error
        raise disk_error_in(layout.database, str(error)) or StorageError(f"{said}.") from error


def refuse_held(layout: StoreLayout) -> None:
    """Raise if another process has the database open, for reading or writing; the file is not touched.

    Raises:
        HeldDatabaseError: with the holder's name.
        StorageError: the file cannot be opened for writing.
    """
    try:
        with layout.database.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # DuckDB's own kind of lock; closing releases it
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES) or not os.access(layout.database, os.W_OK):
            raise StorageError(f"{layout.database} cannot be replaced: {error.strerror}.") from error
        # Refused as well, with the name of the process.
        _connect(layout, read_only=False, deadline=time.monotonic(), wait=0).close()


def _connect(layout: StoreLayout, read_only: bool, deadline: float, wait: float, *, keep: bool = False) -> Use:
    while True:
        try:
            return attach(layout.database, read_only=read_only, keep=keep, check=lambda: _refuse_foreign(layout))
        except (duckdb.Error, AttachedHereError) as error:
            holder = _holder(error)
            if holder is None:
                raise disk_error_in(layout.database, str(error)) or UnusableDatabaseError(
                    f"The database {layout.database} cannot be opened and was left as it is: {_first_line(error)}. "
                    f"If it is damaged: {_remedy(layout)}."
                ) from error
            waits_for_itself = isinstance(error, AttachedHereError) and error.by_this_thread
            if time.monotonic() >= deadline or waits_for_itself:
                raise HeldDatabaseError(
                    f"The database {layout.database} is held by {holder}, for longer than the {wait:g} s of waiting. "
                    f"The completions are safe in {layout.archive} and {layout.journal}: "
                    f"close that program's connection and run the same command again."
                ) from error
        time.sleep(_POLL)


def _refuse_foreign(layout: StoreLayout) -> None:
    """Raise if the file is no DuckDB file. DuckDB would look for an extension that reads it, and go online for that."""
    where, magic = _MAGIC
    try:
        with layout.database.open("rb") as file:
            head = file.read(where.stop)
    except OSError as error:
        raise StorageError(f"The database {layout.database} cannot be read: {error.strerror}.") from error
    if head[where] != magic:
        what = "is no DuckDB file" if head else "is empty"
        raise UnusableDatabaseError(f"The database {layout.database} {what}, and was left as it is: {_remedy(layout)}.")


def _remedy(layout: StoreLayout) -> str:
    return (
        f"run `backtracking rebuild-database` for this experiment, which makes the database anew from the completions "
        f"in {layout.archive} and keeps the old file"
    )


def _holder(error: duckdb.Error | AttachedHereError) -> str | None:
    """Who keeps the database from being opened; None where the error is another one."""
    # The second is another instance of this process, such as one that a notebook made.
    if isinstance(error, AttachedHereError) or "already attached" in str(error):
        return "this process itself, in another thread or an enclosing block"
    if match := _HOLDER.search(str(error)):
        return f"process {match['pid']} ({match['program']})"
    if "Could not set lock" in str(error):
        return "another process"
    return None


def _check_version(layout: StoreLayout, connection: duckdb.DuckDBPyConnection) -> None:
    try:
        rows = connection.execute("select version from schema_version").fetchall()
    except duckdb.CatalogException:
        rows = []
    if len(rows) != 1:
        raise UnusableDatabaseError(
            f"{layout.database} is a DuckDB database that this project did not make; it was left as it is: "
            f"{_remedy(layout)}."
        )
    version = rows[0][0]
    if version != SCHEMA_VERSION:
        update = "update backtracking_assets, or " if version > SCHEMA_VERSION else ""
        raise UnusableDatabaseError(
            f"The database {layout.database} has schema version {version}, and this release knows "
            f"{SCHEMA_VERSION}; it was left as it is: {update}{_remedy(layout)}."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".!")
