"""Writing a file so that it is either whole on disk or not there at all."""

import os
import re
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil

from backtracking_assets.fault_points import FaultPoint, reached
from backtracking_assets.unwritable import cannot_write

_TEMPORARY = re.compile(r"\..+\.(?P<host>[^@]+)@(?P<pid>\d+)\.[0-9a-f]{8}\.tmp(\.wal)?")


Kind = Literal["plan", "progress", "chunk", "archive", "database", "page"]
"""What a file is."""

_FAULT_POINTS: dict[Kind, tuple[FaultPoint, FaultPoint]] = {
    "plan": ("plan written", "plan in place"),
    "progress": ("progress written", "progress in place"),
    "chunk": ("chunk written", "chunk in place"),
    "archive": ("archive written", "archive in place"),
    "database": ("database written", "database in place"),
    "page": ("page written", "page in place"),
}


def write_durably(path: Path, write: Callable[[Path], object], kind: Kind | None = None) -> None:
    """Have `write` fill a temporary file in the same folder, then put that in the place of `path`.

    The file is flushed to the disk before it is renamed and the folder after it, so that a power cut leaves the old
    content or the new one. The temporary file of a writer that fails is removed; that of a writer that is killed is
    left, never read, and removed by `remove_stale_temporaries`.

    Raises:
        UnwritableError: the disk is full or read-only.
        StorageError: the folder cannot be written for another reason.
    """
    # The name carries host and process so that another process can tell whether its writer still lives.
    mark = f"{socket.gethostname()}@{os.getpid()}.{uuid.uuid4().hex[:8]}"
    temporary = path.with_name(f".{path.name}.{mark}.tmp")
    try:
        write(temporary)
        flush(temporary)
        if kind is not None:
            reached(_FAULT_POINTS[kind][0], path.name)
        temporary.replace(path)
        if kind is not None:
            reached(_FAULT_POINTS[kind][1], path.name)
        flush(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        # On a disk that became read-only it has to stay; the error that says so is the one to show.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text_durably(path: Path, text: str, kind: Kind | None = None) -> None:
    """Write UTF-8 text as `write_durably` does, making the folder if there is none.

    Temporary files that dead writers left in that folder are removed.

    Raises:
        StorageError: see `write_durably`.
    """
    make_folder(path.parent)
    remove_stale_temporaries(path.parent)
    write_durably(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), kind)


def make_folder(path: Path) -> None:
    """Make a folder, and make the fact that it exists durable.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        flush(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_stale_temporaries(folder: Path) -> int:
    """Remove the temporary files that writers of this host left when they died; how many there were."""
    removed = 0
    for path in sorted(folder.glob(".*")):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or match["host"] != socket.gethostname() or psutil.pid_exists(int(match["pid"])):
            continue
        path.unlink(missing_ok=True)
        removed += 1
    return removed


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names that a folder has."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
