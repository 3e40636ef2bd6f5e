"""Taking one condition of a bundle into the store. Local completions are never lost, and none is overwritten."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import TypeVar

import pyarrow as pa

from backtracking_assets.errors import BundleError
from backtracking_assets.storage.archive import (
    DifferentCompletionsError,
    archived_condition,
    merge_completions,
    read_archive,
    verified_archive,
    write_archive,
)
from backtracking_assets.storage.chunks import Chunk
from backtracking_assets.storage.durable import make_folder, remove_stale_temporaries, write_durably
from backtracking_assets.storage.journal import finished_chunks, read_chunk, read_plan, write_plan
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.parquet import DamagedFileError
from backtracking_assets.storage.rows import keys_of
from backtracking_assets.storage.set_aside import set_aside

T = TypeVar("T")


@dataclass(frozen=True)
class Merge:
    """What taking a condition would change in the store."""

    fingerprint: str
    archive: pa.Table | None
    """The completions that the archive would hold; None where it stays as it is."""
    whole: bool
    """Whether the store has no archive of the condition, so that the bundle's is copied byte by byte."""
    chunks: tuple[str, ...]
    """Finished chunks that would be added."""
    plan: tuple[Chunk, ...] | None
    """The plan that would be written; None where it stays as it is."""
    n_gained: int
    """Completions that the store would have and does not have now."""
    note: str | None = None

    @property
    def changes(self) -> bool:
        return self.archive is not None or bool(self.chunks) or self.plan is not None


@dataclass(frozen=True)
class _Side:
    """One side's completions of a condition."""

    archive: pa.Table | None
    chunks: dict[str, pa.Table]
    plan: list[Chunk]


def planned_merge(layout: StoreLayout, incoming: StoreLayout, fingerprint: str, where: str) -> Merge:
    """What taking a condition would change, found without changing anything.

    `incoming` holds the files of the bundle that were fetched, laid out as a store.

    Raises:
        BundleError: a file of the bundle is not what its name says, or holds another completion of a problem and
            sample that the store has.
    """
    theirs = _their_side(incoming, fingerprint, where)
    ours = _our_side(layout, fingerprint)
    tables = [table for side in (ours, theirs) for table in (side.archive, *side.chunks.values()) if table is not None]
    try:
        everything = {*keys_of(merge_completions(tables))} if tables else set()
    except DifferentCompletionsError as difference:
        raise BundleError(
            f"{where} and this store hold {difference} of condition {fingerprint[:12]}; nothing was "
            f"overwritten: move {layout.archive_of(fingerprint)} or {layout.journal_of(fingerprint)} away to take the "
            f"bundle's, or leave the bundle."
        ) from difference
    had = {key for table in (ours.archive, *ours.chunks.values()) if table is not None for key in keys_of(table)}
    archives = [table for table in (ours.archive, theirs.archive) if table is not None]
    archive = merge_completions(archives) if archives else None
    grown = archive is not None and (ours.archive is None or archive.num_rows > ours.archive.num_rows)
    archived = set(keys_of(archive)) if archive is not None else set()
    chunks = sorted(
        name
        for name, table in theirs.chunks.items()
        if name not in ours.chunks and not archived.issuperset(keys_of(table))
    )
    wanted = bool(chunks) or any(not archived.issuperset(chunk.keys) for chunk in theirs.plan)
    plan = ours.plan
    note = None
    if wanted:
        common = _common_plan(ours, theirs)
        if common is None:
            note = (
                f"Condition {fingerprint[:12]} is unfinished here and in the bundle, planned in other chunks; "
                f"{len(chunks)} finished chunks of the bundle were not taken."
            )
            missed = {key for name in chunks for key in keys_of(theirs.chunks[name])}
            everything -= missed - had - archived
            chunks = []
        else:
            plan = common
    finished = {*ours.chunks, *chunks}
    # Completions of an unfinished chunk that came with the archive would be generated again, perhaps on a machine that
    # makes others: what is left of such a chunk is planned anew.
    plan = [c for c in plan if c.chunk_id in finished or archived.isdisjoint(c.keys) or archived.issuperset(c.keys)]
    return Merge(
        fingerprint=fingerprint,
        archive=archive if grown else None,
        whole=ours.archive is None,
        chunks=tuple(chunks),
        plan=tuple(plan) if plan != ours.plan else None,
        n_gained=len(everything - had),
        note=note,
    )


def take(layout: StoreLayout, incoming: StoreLayout, merge: Merge) -> None:
    """Change the store as planned. The caller holds the generation lock, and planned the merge under it.

    Each file is put in place at once, the plan before its chunks: cut off at any moment, the store is whole, and the
    same merge planned again does the rest.

    Raises:
        StorageError: a file cannot be written.
    """
    fingerprint = merge.fingerprint
    if merge.archive is not None:
        remove_stale_temporaries(layout.archive)
        verified_archive(layout, fingerprint)  # a damaged one is set aside, not overwritten
        if merge.whole:
            copy_durably(incoming.archive_of(fingerprint), layout.archive_of(fingerprint))
        else:
            write_archive(layout, archived_condition(incoming, fingerprint), merge.archive)
    if merge.chunks or merge.plan is not None:
        finished_chunks(layout, fingerprint)  # damaged ones are set aside
        make_folder(layout.journal_of(fingerprint))
        remove_stale_temporaries(layout.journal_of(fingerprint))
        if merge.plan is not None:
            _set_damaged_plan_aside(layout, fingerprint)
            write_plan(layout, fingerprint, merge.plan)
        for name in merge.chunks:
            copy_durably(incoming.chunk_file(fingerprint, name), layout.chunk_file(fingerprint, name))


def _set_damaged_plan_aside(layout: StoreLayout, fingerprint: str) -> None:
    try:
        read_plan(layout.plan_of(fingerprint), fingerprint)
    except DamagedFileError as damage:
        set_aside(layout, damage.path, damage.reason)


def copy_durably(source: Path, target: Path) -> None:
    """Put a copy of a file in the place of another.

    Raises:
        StorageError: it cannot be written.
    """
    write_durably(target, lambda temporary: copyfile(source, temporary))


def _their_side(incoming: StoreLayout, fingerprint: str, where: str) -> _Side:
    """What the bundle holds of a condition.

    Raises:
        BundleError: a file is not what its name says.
    """
    try:
        archive = None
        if incoming.archive_of(fingerprint).exists():
            archived_condition(incoming, fingerprint)
            archive = read_archive(incoming, fingerprint)
        files = sorted(incoming.journal_of(fingerprint).glob("*.parquet"))
        chunks = {file.stem: read_chunk(file, fingerprint) for file in files}
        plan = read_plan(incoming.plan_of(fingerprint), fingerprint) or []
    except DamagedFileError as damage:
        name = damage.path.relative_to(incoming.root).as_posix()
        raise BundleError(f"{where}: {name} cannot be used: {damage.reason}; nothing was taken.") from damage
    return _Side(archive, chunks, plan)


def _our_side(layout: StoreLayout, fingerprint: str) -> _Side:
    """What the store holds of a condition; what is damaged is missing. Nothing is set aside: no lock may be held."""
    archive = _intact(lambda: read_archive(layout, fingerprint))
    chunks = {}
    for file in sorted(layout.journal_of(fingerprint).glob("*.parquet")):
        if (table := _intact(lambda file=file: read_chunk(file, fingerprint))) is not None:
            chunks[file.stem] = table
    return _Side(archive, chunks, _intact(lambda: read_plan(layout.plan_of(fingerprint), fingerprint)) or [])


def _common_plan(ours: _Side, theirs: _Side) -> list[Chunk] | None:
    """The plan that holds the chunks of both sides; None where each has planned in its own way."""
    shorter, longer = sorted((ours.plan, theirs.plan), key=len)
    planned = {chunk.chunk_id for chunk in longer}
    if longer[: len(shorter)] == shorter and planned.issuperset({*ours.chunks, *theirs.chunks}):
        return longer
    # Where nothing is finished here, what was planned here binds nobody; chunks without a plan are planned around.
    whole = {chunk.chunk_id for chunk in theirs.plan}.issuperset(theirs.chunks) or not (ours.plan or theirs.plan)
    return theirs.plan if whole and not ours.chunks else None


def _intact(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except DamagedFileError:
        return None
