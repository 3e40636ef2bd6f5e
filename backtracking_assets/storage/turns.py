"""Sharing cells and prompt variants between sweeps: one sweep at a time works on each, whichever comes to it first."""

import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock, Timeout

from backtracking_assets.errors import StorageError
from backtracking_assets.records import Subject
from backtracking_assets.storage.layout import StoreLayout

_POLL_SECONDS = 0.2


_Subject = TypeVar("_Subject", bound=Subject)


@dataclass(frozen=True)
class Turn(Generic[_Subject]):
    """A cell or a variant that this process may work on until it asks for the next one."""

    cell: _Subject
    visited: bool
    """Whether another sweep has worked on it since `visitors` was asked, so that it may be done by now."""
    mark: str
    """The mark that is left when the turn ends, by which a later turn is told from one of another sweep."""


Visitors = Mapping[Subject, str | None]


def visitors(layout: StoreLayout, cells: Iterable[Subject]) -> Visitors:
    """The mark of the last visit to each cell. Ask before looking up which cells are done."""
    return {cell: _last_visitor(layout.turn_of(cell)) for cell in cells}


def in_turn(
    layout: StoreLayout,
    cells: Sequence[_Subject],
    before: Visitors,
    *,
    comes_first: Callable[[_Subject], bool] = lambda cell: False,
    on_wait: Callable[[], None] = lambda: None,
) -> Generator[Turn[_Subject], None, None]:
    """Each of the cells or variants once, held against other sweeps until the next is asked for.

    Cells that another sweep is at work on come last, so that several sweeps share what is to be done. The locks are
    released by the kernel when a process dies, so the next one finds the cell free.

    Args:
        before: what `visitors` said before it was looked up that these cells are to be done.
        comes_first: cells that are handed out before any other, one after another; their turn is waited for.
        on_wait: called now and then while all cells that are left are being worked on.

    Raises:
        StorageError: a lock cannot be taken.
    """
    left = list(cells)
    while left:
        # One after another: they may share a condition, and which cell is linked to it first shows in the store.
        candidates = [cell for cell in left if comes_first(cell)][:1] or left
        taken = next(((cell, lock) for cell in candidates if (lock := _try(layout.turn_of(cell))) is not None), None)
        if taken is None:
            on_wait()
            time.sleep(_POLL_SECONDS)
            continue
        cell, lock = taken
        left.remove(cell)
        with _turn(layout, cell, before[cell], lock) as turn:
            yield turn


@contextmanager
def turn_if_free(layout: StoreLayout, cell: _Subject, before: str | None) -> Iterator[Turn[_Subject] | None]:
    """Hold one cell or variant for the length of a `with` block; None where another sweep is at work on it.

    Args:
        before: its mark from before it was looked up that it is to be done.

    Raises:
        StorageError: the lock cannot be taken.
    """
    lock = _try(layout.turn_of(cell))
    if lock is None:
        yield None
        return
    with _turn(layout, cell, before, lock) as turn:
        yield turn


@contextmanager
def _turn(layout: StoreLayout, cell: _Subject, before: str | None, lock: FileLock) -> Iterator[Turn[_Subject]]:
    path, mark = layout.turn_of(cell), uuid.uuid4().hex
    try:
        visited = _last_visitor(path) != before
        _sign(path, uuid.uuid4().hex)
        yield Turn(cell, visited, mark)
    finally:
        # Once more: who looked while the work went on must see that something has changed since.
        _sign(path, mark)
        lock.release()


def _try(path: Path) -> FileLock | None:
    """The lock, if nobody holds it."""
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise StorageError(f"The lock {path} cannot be taken: {error.strerror or error}.") from error
    return lock


def _visitors(path: Path) -> Path:
    # Beside the lock: releases of filelock before 4 empty the lock file whenever they open it.
    return path.with_suffix(".visitor")


def _last_visitor(path: Path) -> str | None:
    try:
        return _visitors(path).read_text(encoding="utf-8")
    except OSError:
        return None


def _sign(path: Path, mark: str) -> None:
    """Leave a mark that no other visit leaves."""
    try:
        _visitors(path).write_text(mark, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{_visitors(path)} cannot be written: {error.strerror or error}.") from error
