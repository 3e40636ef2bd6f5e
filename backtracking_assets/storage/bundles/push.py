"""Sending a store to a bundle. Cut off at any moment, the bundle is the earlier one or the new one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from backtracking_assets.errors import BundleError
from backtracking_assets.storage.bundles.combining import Combined, combine
from backtracking_assets.storage.bundles.location import Location, Sums, at_once, sums_of
from backtracking_assets.storage.bundles.manifest import Entry, Manifest, Origin, make_manifest, read_manifest
from backtracking_assets.storage.bundles.snapshot import read_whole, snapshot
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.parquet import DamagedFileError

OnTransfer = Callable[[int, int], None]
"""Called after each file with the bytes that were moved and the bytes to move."""

_MOST_ROUNDS = 20


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    files: int
    """Files that the bundle holds now."""
    size: int
    """Their bytes."""
    sent: int
    sent_bytes: int
    by_checksum: int
    """New objects that the place itself gives a matching checksum of."""
    by_reading: int
    """New objects that were read back."""
    by_size: int
    """Objects that an earlier push had proven."""
    changed: bool
    """Whether a new manifest was written."""
    notes: tuple[str, ...]


def push(
    layout: StoreLayout,
    location: Location,
    *,
    experiment: str,
    documents: Mapping[str, Path],
    made: Origin,
    on_transfer: OnTransfer = lambda moved, total: None,
) -> Pushed:
    """Have the bundle hold all of the store's finished work, and what it held before.

    Args:
        documents: files that go with the results, by their path in the bundle.

    Raises:
        BundleError: the place cannot be read or written, or the bundle there holds what this store lacks.
        StorageError: the store cannot be read.
    """
    sender = _Sender(layout, location, documents, on_transfer)
    location.remove_leftovers()
    for _ in range(_MOST_ROUNDS):
        # In each round: what is there, what is here, send what is missing, prove it, and only then the manifest.
        before = location.read_manifest()
        old = None if before is None else read_manifest(before, experiment=experiment, where=location.shown)
        local = snapshot(layout, documents)
        try:
            combined = combine(layout, location, local, old)
        except DamagedFileError as gone:
            if gone.path.exists():
                raise
            continue  # archived meanwhile
        known = {entry.sha256 for entry in old.files} if old is not None else set()
        manifest = make_manifest(experiment, made, combined.files)
        proofs = sender.send(manifest, local, known)
        if proofs is None:
            continue
        changed = old is None or old.files != manifest.files
        if changed:
            if location.read_manifest() != before:
                continue  # another push was quicker: what it brought stays
            location.write_manifest(manifest.to_bytes())
        return sender.result(manifest, proofs, changed, combined)
    raise BundleError(
        f"{layout.root} or {location.shown} changes faster than it can be sent; run the same command again."
    )


@dataclass
class _Sender:
    """Objects that are sent over all rounds of one push."""

    layout: StoreLayout
    location: Location
    documents: Mapping[str, Path]
    on_transfer: OnTransfer
    sent: int = 0
    sent_bytes: int = 0

    def send(self, manifest: Manifest, local: Mapping[str, Sums], known: Iterable[str]) -> list[str] | None:
        """Have every object of the manifest there; how each new one was proven whole. None if a file here changed.

        `known` are the objects of the earlier manifest, which were proven when they were pushed and are compared by
        size.
        """
        there = self.location.objects()
        earlier = {sha256 for sha256 in known if sha256 in there}
        if not self._send_missing(manifest, local, lambda entry: there.get(entry.sha256, {}).get("size") == entry.size):
            return None
        new = {entry.sha256: entry.path for entry in manifest.files if entry.sha256 not in earlier}
        proofs = self._prove(new, local)
        if broken := {sha256 for sha256, proof in proofs.items() if proof is None}:
            # What an earlier push left there under this name is not what the name says: once more.
            if not self._send_missing(manifest, local, lambda entry: entry.sha256 not in broken):
                return None
            proofs |= self._prove(broken, local)
        for sha256, proof in proofs.items():
            if proof is None:
                raise BundleError(
                    f"{self.location.shown}: {new[sha256]} is not there as it was sent; the earlier bundle is "
                    f"untouched: run the same command again."
                )
        return [proof for proof in proofs.values() if proof is not None]

    def result(self, manifest: Manifest, proofs: list[str], changed: bool, combined: Combined) -> Pushed:
        return Pushed(
            files=len(manifest.files),
            size=manifest.size,
            sent=self.sent,
            sent_bytes=self.sent_bytes,
            by_checksum=proofs.count("checksum"),
            by_reading=proofs.count("reading"),
            by_size=len({entry.sha256 for entry in manifest.files}) - len(proofs),
            changed=changed,
            notes=tuple(combined.notes),
        )

    def _send_missing(self, manifest: Manifest, local: Mapping[str, Sums], there: Callable[[Entry], bool]) -> bool:
        sources = {sums.sha256: path for path, sums in local.items()}
        missing = {entry.sha256: entry for entry in manifest.files if not there(entry)}
        total = self.sent_bytes + sum(entry.size for entry in missing.values())
        for sha256, entry in missing.items():
            if sha256 not in sources:
                raise BundleError(
                    f"{self.location.shown}: {entry.path} is missing from the bundle and is not in this store; push it "
                    f"again from where it was made, or push to another place."
                )

        def put(sha256: str) -> int | None:
            path = sources[sha256]
            content = read_whole(self.documents.get(path, self.layout.root / path))
            if content is None or sums_of(content).sha256 != sha256:
                return None
            self.location.put_object(sha256, content)
            return len(content)

        for size in at_once(self.location.writers, put, missing):
            if size is None:
                return False
            self.sent += 1
            self.sent_bytes += size
            self.on_transfer(self.sent_bytes, total)
        return True

    def _prove(self, objects: Iterable[str], local: Mapping[str, Sums]) -> dict[str, str | None]:
        sums_by_name = {sums.sha256: sums for sums in local.values()}
        there = self.location.objects()

        def prove(sha256: str) -> tuple[str, str | None]:
            return sha256, self.location.proves(sums_by_name[sha256], there.get(sha256, {}))

        return dict(at_once(self.location.readers, prove, objects))
