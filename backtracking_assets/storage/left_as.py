"""Whether a database is as this process left it: then what the process knows of it need not be read again.

Every change of a DuckDB file is in its headers, which count the checkpoints, or in the log beside it.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from backtracking_assets.storage.attaching import while_unattached

_HEADERS = 3 * 4096
"""Bytes at the start of every DuckDB file: one header of the file and two of the database."""


class Mark(NamedTuple):
    """A state of a database. Equal marks of one process are one state."""

    others: int
    """How often the file was found otherwise than this process had left it."""
    own: int
    """How often this process has had it open to write."""

    def after(self, writings: int) -> "Mark":
        """The state that so many writings of this process lead to, where nobody else writes."""
        return Mark(self.others, self.own + writings)


@dataclass
class _Known:
    state: tuple | None
    mark: Mark


_known: dict[tuple[int, Path], _Known] = {}
"""By process and file, as the instances of DuckDB are."""


def look(database: Path, log: Path) -> Mark | None:
    """The state of a database now; None while this process has it open, when its file may not be looked at."""
    # Closing a file gives up all locks that the process has on it: hence never while it is attached.
    return while_unattached(database, lambda: _looked(database, log).mark)


def writing_began(database: Path) -> Mark | None:
    """The state before the writing that is under way in this process; None where nothing was looked at."""
    known = _known.get((os.getpid(), database))
    return None if known is None else known.mark


def wrote(database: Path, log: Path) -> None:
    """Note that this process has let go of a database that it wrote, before any other one may write it."""

    def note() -> None:
        known = _known.get((os.getpid(), database))
        if known is not None:
            known.state, known.mark = _state(database, log), known.mark.after(1)

    while_unattached(database, note)


def _looked(database: Path, log: Path) -> _Known:
    state = _state(database, log)
    known = _known.setdefault((os.getpid(), database), _Known(state, Mark(0, 0)))
    if known.state != state:
        known.state, known.mark = state, Mark(known.mark.others + 1, known.mark.own)
    return known


def _state(database: Path, log: Path) -> tuple | None:
    try:
        with database.open("rb") as file:
            facts, headers = os.fstat(file.fileno()), file.read(_HEADERS)
    except OSError:
        return None
    try:
        of_log = log.stat()
    except OSError:
        beside = None
    else:
        beside = (of_log.st_ino, of_log.st_size, of_log.st_mtime_ns)
    digest = hashlib.blake2b(headers, digest_size=16).digest()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, digest, beside
