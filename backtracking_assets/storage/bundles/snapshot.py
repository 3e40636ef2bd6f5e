"""What of a store travels, as it stands at one moment, though another process may be at work in it.

Chunks, archives, plans and pages are only ever renamed into place, so an open file keeps its content. A journal is
cleared after its archive is written: journals are therefore looked at first and archives after them, and a completion
that was durable before is in one of the two, or in both.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.archive import archived_fingerprints, read_archive
from backtracking_assets.storage.bundles.location import Sums, sums_of
from backtracking_assets.storage.bundles.manifest import Place, place_of
from backtracking_assets.storage.journal import read_chunk, read_plan
from backtracking_assets.storage.layout import StoreLayout, is_fingerprint
from backtracking_assets.storage.parquet import DamagedFileError

_MOST_LOOKS = 20

# A process that pushes after every cell would else read the whole store each time.
_known_sums: dict[tuple[Path, int, int, int], Sums] = {}


def local_files(layout: StoreLayout, documents: Mapping[str, Path]) -> dict[str, Path]:
    """Files of a store by their path in a bundle, with the documents that go with them; journals first.

    Raises:
        StorageError: the store cannot be listed.
    """
    try:
        journals = {path: file for path, file in _journal_files(layout) if place_of(path)}
        archives = {f"archive/{name}.parquet": layout.archive_of(name) for name in archived_fingerprints(layout)}
        found = sorted(layout.reports.rglob("*.html"))
        pages = {path.relative_to(layout.root).as_posix(): path for path in found if not path.is_symlink()}
    except OSError as error:
        raise StorageError(f"{layout.root} cannot be read: {error.strerror}.") from error
    known = {path: file for path, file in pages.items() if place_of(path)}
    return {**journals, **archives, **known, **documents}


def snapshot(layout: StoreLayout, documents: Mapping[str, Path]) -> dict[str, Sums]:
    """Sizes and digests of `local_files`, taken at one moment.

    Raises:
        StorageError: a file cannot be read, or the store is never at rest for long enough.
    """
    for _ in range(_MOST_LOOKS):
        found = {path: _sums(file) for path, file in local_files(layout, documents).items()}
        there = {path: sums for path, sums in found.items() if sums is not None}
        if len(there) == len(found):
            return there
        # A file went, since its condition was archived or its page replaced meanwhile: look again.
    raise StorageError(f"{layout.root} changes faster than it can be read; run the same command again.")


def read_whole(file: Path) -> bytes | None:
    """The content of a file; None where it is gone.

    Raises:
        StorageError: it cannot be read.
    """
    with _opened(file) as handle:
        return None if handle is None else handle.read()


def damage(layout: StoreLayout, path: str, place: Place) -> str | None:
    """What is wrong with a file of the store; None where it is sound, or cannot be told from its content.

    Raises:
        StorageError: it cannot be read.
    """
    file = layout.root / path
    try:
        if place.kind == "archive" and place.fingerprint:
            read_archive(layout, place.fingerprint)
        elif place.kind == "chunk" and place.fingerprint:
            read_chunk(file, place.fingerprint)
        elif place.kind == "plan" and place.fingerprint:
            read_plan(file, place.fingerprint)
    except DamagedFileError as found:
        return found.reason if file.exists() else None
    return None


def _journal_files(layout: StoreLayout) -> Iterator[tuple[str, Path]]:
    for folder in sorted(layout.journal.glob("*")):
        if is_fingerprint(folder.name):
            for file in sorted(folder.glob("*")):
                yield file.relative_to(layout.root).as_posix(), file


def _sums(file: Path) -> Sums | None:
    """The sums of a file; None where it is gone."""
    with _opened(file) as handle:
        if handle is None:
            return None
        facts = os.fstat(handle.fileno())
        key = (file, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if key not in _known_sums:
            _known_sums[key] = sums_of(handle.read())
        return _known_sums[key]


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO | None]:
    try:
        handle = file.open("rb")
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror}.") from error
    with handle:
        yield handle
