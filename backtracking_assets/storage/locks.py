"""Locks between processes. The kernel releases them when their holder dies, however it dies."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.unwritable import disk_error_in

OnWait = Callable[[float], None]
"""Called now and then with the seconds waited so far."""


class LockHeldError(StorageError):
    """Another process holds a lock for longer than it was waited for."""


@contextmanager
def generation_lock(
    layout: StoreLayout,
    fingerprint: str,
    on_wait: OnWait | None = None,
    *,
    timeout: float | None = None,
    every: float = 5.0,
) -> Iterator[None]:
    """Hold the right to generate one condition; others wait, without end unless `timeout` (seconds) is given.

    Raises:
        LockHeldError: the time is up; the message names the holder.
        StorageError: the lock file cannot be made.
    """
    lock = layout.generation_lock_of(fingerprint)
    with _held(lock, f"Condition {fingerprint[:12]}", on_wait, timeout, every):
        yield


@contextmanager
def database_lock(
    layout: StoreLayout, on_wait: OnWait | None = None, *, timeout: float | None = None, every: float = 5.0
) -> Iterator[None]:
    """Hold the right to write the database; see `generation_lock`."""
    with _held(layout.database_lock, f"Database {layout.database}", on_wait, timeout, every):
        yield


@contextmanager
def whole_sweep_lock(layout: StoreLayout) -> Iterator[None]:
    """Hold the right to make what is made of all cells together; see `generation_lock`."""
    with _held(layout.whole_sweep_lock, f"The report of {layout.root}", None, None, 5.0):
        yield


@contextmanager
def pull_lock(
    layout: StoreLayout, on_wait: OnWait | None = None, *, timeout: float | None = None, every: float = 5.0
) -> Iterator[None]:
    """Hold the right to take a bundle into the store; see `generation_lock`."""
    with _held(layout.pull_lock, f"Pulling into {layout.root}", on_wait, timeout, every):
        yield


@contextmanager
def _held(path: Path, what: str, on_wait: OnWait | None, timeout: float | None, every: float) -> Iterator[None]:
    lock = FileLock(path)
    # The holder is noted beside the lock: releases of filelock before 4 empty the lock file whenever they open it.
    note = path.with_suffix(".holder")
    began = time.monotonic()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            waited = time.monotonic() - began
            left = every if timeout is None else min(every, max(0.0, timeout - waited))
            try:
                lock.acquire(timeout=left)
                break
            except Timeout:
                waited = time.monotonic() - began
                if timeout is not None and waited >= timeout:
                    raise LockHeldError(
                        f"{what} is in use by {_read_note(note)}; after {waited:.0f} s of waiting this run gave up. "
                        f"Nothing is lost: when that process has ended, run the same command again."
                    ) from None
                if on_wait is not None:
                    on_wait(waited)
        note.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    except OSError as error:
        lock.release()
        raise disk_error_in(path, error.strerror or "") or StorageError(
            f"The lock {path} cannot be taken: {error.strerror or error}."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _read_note(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"
