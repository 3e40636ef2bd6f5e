"""What the next manifest of a bundle names: this store's files, and what the bundle holds that this store does not.

Two machines may push into one place. A push never makes a bundle lose a completion: what it would replace is compared
first, and what differs is refused.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from backtracking_assets.errors import BundleError
from backtracking_assets.storage.archive import (
    DifferentCompletionsError,
    archived_chunk_ids,
    merge_completions,
    read_archive,
)
from backtracking_assets.storage.bundles.location import DamagedObjectError, Location, Sums, fetch
from backtracking_assets.storage.bundles.manifest import Entry, Manifest, Place, place_of
from backtracking_assets.storage.bundles.snapshot import damage
from backtracking_assets.storage.chunks import Chunk
from backtracking_assets.storage.journal import read_chunk, read_plan
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.parquet import DamagedFileError


@dataclass
class Combined:
    """The files of the next manifest, and what a person should know about them."""

    files: dict[str, Entry]
    notes: list[str] = field(default_factory=list)


def combine(layout: StoreLayout, location: Location, local: Mapping[str, Sums], old: Manifest | None) -> Combined:
    """The files that the next manifest names.

    Raises:
        BundleError: the bundle holds another completion of the same problem and sample, or one that this store lacks.
    """
    combined = Combined({path: Entry(path=path, size=s.size, sha256=s.sha256) for path, s in local.items()})
    bundled = old.by_path if old is not None else {}
    for path, entry in list(combined.files.items()):
        place = _place(path)
        if bundled.get(path) != entry and (reason := damage(layout, path, place)) is not None:
            combined.notes.append(f"{layout.root / path} was left out: {reason}.")
            del combined.files[path]
    for fingerprint in sorted({place.fingerprint for path in bundled if (place := _place(path)).fingerprint}):
        _keep_condition(layout, location, combined, bundled, fingerprint)
    for path, entry in bundled.items():
        if _place(path).fingerprint is None:
            combined.files.setdefault(path, entry)
    return combined


def _keep_condition(
    layout: StoreLayout, location: Location, combined: Combined, bundled: Mapping[str, Entry], fingerprint: str
) -> None:
    """Add what the bundle holds of one condition, and see that nothing of it is lost."""
    theirs = {path: entry for path, entry in bundled.items() if _place(path).fingerprint == fingerprint}
    archive = f"archive/{fingerprint}.parquet"
    archived = archived_chunk_ids(layout, fingerprint) if archive in combined.files else set()
    chunks = {
        path: entry
        for path, entry in theirs.items()
        if _place(path).kind == "chunk" and _place(path).chunk_id not in archived
    }
    for path, entry in theirs.items():
        changed = path in combined.files and combined.files[path] != entry
        if _place(path).kind == "archive" and path not in combined.files:
            combined.files[path] = entry
        elif _place(path).kind in ("archive", "chunk") and changed:
            _refuse_loss(layout, location, entry)
    plan = f"journal/{fingerprint}/plan.json"
    if plan in theirs and combined.files.get(plan) != theirs[plan]:
        if plan in combined.files:
            ours, bundle_plan = read_plan(layout.root / plan, fingerprint), _their_plan(location, theirs[plan])
            if bundle_plan is not None and not _one_continues_the_other(ours or [], bundle_plan):
                combined.notes.append(
                    f"Condition {fingerprint[:12]} is unfinished here and in the bundle, planned in other chunks; its "
                    f"chunks stay here and travel once they are archived."
                )
                _drop_journal(combined, fingerprint)
                combined.files |= {path: entry for path, entry in theirs.items() if path.startswith("journal/")}
                return
            if bundle_plan is not None and len(bundle_plan) > len(ours or []):
                combined.files[plan] = theirs[plan]
        elif chunks or not archived:
            combined.files[plan] = theirs[plan]
    for path, entry in chunks.items():
        combined.files.setdefault(path, entry)


def _drop_journal(combined: Combined, fingerprint: str) -> None:
    for path in [path for path in combined.files if path.startswith(f"journal/{fingerprint}/")]:
        del combined.files[path]


def _refuse_loss(layout: StoreLayout, location: Location, entry: Entry) -> None:
    """Refuse to replace a file of the bundle by this store's where a completion would be lost."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            theirs = StoreLayout(Path(folder))
            fetch(location, entry, theirs.root / entry.path)
            bundled = _completions(theirs, entry.path)
    except (DamagedObjectError, DamagedFileError):
        return  # what cannot be read any more is replaced by what can
    ours = _completions(layout, entry.path)
    where = f"{location.shown}: {entry.path}"
    try:
        merged = merge_completions([ours, bundled])
    except DifferentCompletionsError as difference:
        raise BundleError(
            f"{where} and this store hold {difference}; the bundle was left as it is: push to another place, or "
            f"remove one of the two."
        ) from difference
    if merged.num_rows > ours.num_rows:
        raise BundleError(
            f"{where} holds {merged.num_rows - ours.num_rows} completions that this store does not have; the bundle "
            f"was left as it is: pull first, then push again."
        )


def _completions(layout: StoreLayout, path: str) -> pa.Table:
    place = _place(path)
    assert place.fingerprint is not None
    if place.kind == "archive":
        return read_archive(layout, place.fingerprint)
    return read_chunk(layout.root / path, place.fingerprint)


def _their_plan(location: Location, entry: Entry) -> list[Chunk] | None:
    fingerprint = _place(entry.path).fingerprint
    assert fingerprint is not None
    try:
        with tempfile.TemporaryDirectory() as folder:
            fetch(location, entry, Path(folder) / "plan.json")
            return read_plan(Path(folder) / "plan.json", fingerprint)
    except (DamagedObjectError, DamagedFileError):
        return None


def _one_continues_the_other(first: list[Chunk], second: list[Chunk]) -> bool:
    return all(one == other for one, other in zip(first, second, strict=False))


def _place(path: str) -> Place:
    place = place_of(path)
    assert place is not None  # manifests and snapshots hold no other path
    return place
