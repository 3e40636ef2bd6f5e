"""The DuckDB instance of this process, to which a database file is attached while blocks use it.

Starting an instance takes most of what `duckdb.connect` takes, whatever file it is given, so one is kept; it holds no
file and no lock between two uses. Blocks that read the same file at once share one attachment, and the file is let go
with the last of them. A thread that keeps it attached to write may read and write by turns meanwhile.
"""

import itertools
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import duckdb


class AttachedHereError(Exception):
    """This process has the file attached already, and one of the two wants to write."""

    def __init__(self, *, by_this_thread: bool) -> None:
        super().__init__()
        self.by_this_thread = by_this_thread
        """Whether waiting would be waiting for oneself."""


@dataclass
class _Attachment:
    alias: str
    read_only: bool
    threads: list[int] = field(default_factory=list)
    """The thread of each block that uses it."""
    keeper: int | None = None
    """The thread that keeps it attached between its blocks."""
    written: bool = False
    """Whether a block of the keeper writes now."""

    def admits(self, *, read_only: bool) -> bool:
        """Whether this thread may use it, as it is attached now, for another block."""
        if self.keeper == threading.get_ident():
            return not self.written and (read_only or self.threads == [self.keeper])
        return read_only and self.read_only


@dataclass
class _Instance:
    root: duckdb.DuckDBPyConnection
    attachments: dict[Path, _Attachment] = field(default_factory=dict)
    spoilt: bool = False
    """Whether a statement failed in it: after some errors DuckDB refuses everything else until it starts anew."""


_lock = threading.Lock()
_numbers = itertools.count(1)
_instances: dict[int, _Instance] = {}
"""By process: that of the process which this one was forked from has its threads there."""


@dataclass(frozen=True)
class Use:
    """One block's use of a database file."""

    connection: duckdb.DuckDBPyConnection
    first: bool
    """Whether the file was opened for this block, and not shared with another one."""
    _instance: _Instance
    _path: Path
    _writes: bool

    def close(self, *, failed: bool = False) -> None:
        """Let go of the file, unless another block reads it. The log is folded into the file as it is let go.

        Args:
            failed: whether a statement failed; the instance is then given up as soon as nothing is attached to it.

        Raises:
            duckdb.Error: the file cannot be let go in order.
        """
        with suppress(duckdb.Error):
            self.connection.close()
        with _lock:
            instance, attachment = self._instance, self._instance.attachments[self._path]
            instance.spoilt = instance.spoilt or failed
            attachment.threads.remove(threading.get_ident())
            attachment.written = attachment.written and not self._writes
            if attachment.threads:
                return
            del instance.attachments[self._path]
            try:
                instance.root.execute(f'detach "{attachment.alias}"')
            except duckdb.Error:
                instance.spoilt = True
                raise
            finally:
                _give_up_if_spoilt(instance)


def attach(path: Path, *, read_only: bool, keep: bool = False, check: Callable[[], None] = lambda: None) -> Use:
    """A connection whose tables are those of a database file.

    Args:
        keep: whether other blocks of this thread may read and write within this one.
        check: looks at the file before it is opened, and raises if it must not be. It is called only where this process
            has not opened the file: closing any handle of a file gives up all locks that a process has on it.

    Raises:
        AttachedHereError: this process uses the file already, and one of the two writes.
        duckdb.Error: the file cannot be opened.
    """
    with _lock:
        instance = _running(path)
        attachment = instance.attachments.get(path)
        first = attachment is None
        if attachment is None:
            check()
            attachment = _Attachment(f"store_{next(_numbers)}", read_only)
            attachment.keeper = threading.get_ident() if keep else None
            mode, place = "read_only" if read_only else "read_write", str(path).replace("'", "''")
            try:
                instance.root.execute(f"attach '{place}' as \"{attachment.alias}\" (type duckdb, {mode})")
            except duckdb.Error:
                _give_up_if_spoilt(instance)
                raise
            instance.attachments[path] = attachment
        elif not attachment.admits(read_only=read_only):
            raise AttachedHereError(by_this_thread=threading.get_ident() in attachment.threads)
        connection = instance.root.cursor()
        connection.execute(f'use "{attachment.alias}"')
        attachment.threads.append(threading.get_ident())
        writes = not read_only and not keep
        attachment.written = attachment.written or writes
        return Use(connection, first, instance, path, writes)


def kept_here(path: Path) -> bool:
    """Whether this thread keeps a database file attached to write."""
    with _lock:
        instance = _instances.get(os.getpid())
        attachment = None if instance is None else instance.attachments.get(path)
        return attachment is not None and attachment.keeper == threading.get_ident()


def _running(path: Path) -> _Instance:
    if os.getpid() not in _instances:
        # What does not fit into memory goes beside the database, where DuckDB would put it if it had opened the file.
        root = duckdb.connect(":memory:", config={"temp_directory": f"{path}.tmp"})
        # Results must not depend on where the machine stands.
        root.execute("set global TimeZone = 'UTC'")
        _instances[os.getpid()] = _Instance(root)
    return _instances[os.getpid()]


def _give_up_if_spoilt(instance: _Instance) -> None:
    if instance.spoilt and not instance.attachments:
        instance.root.close()
        del _instances[os.getpid()]
