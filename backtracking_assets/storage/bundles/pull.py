"""Taking a bundle into a store.

Everything is fetched into `incoming/` and checked there first; the store is changed only when the whole bundle is
sound and agrees with what is here. Cut off at any moment, each condition is as it was or as it will be, and the same
command does the rest from what is fetched already.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from backtracking_assets.errors import BundleError, ExperimentError, StorageError
from backtracking_assets.experiment_file import load_experiment, read_document
from backtracking_assets.storage.archive import archived_chunk_ids
from backtracking_assets.storage.bundles.location import Location, at_once, fetch
from backtracking_assets.storage.bundles.manifest import (
    EXPERIMENT_FILE,
    MANIFEST,
    Entry,
    Manifest,
    Place,
    make_manifest,
    place_of,
    read_manifest,
)
from backtracking_assets.storage.bundles.merging import copy_durably, planned_merge, take
from backtracking_assets.storage.durable import make_folder, remove_stale_temporaries, write_durably
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.locks import LockHeldError, generation_lock, pull_lock
from backtracking_assets.storage.parquet import DamagedFileError

OnTransfer = Callable[[int, int], None]

_BUSY_WAIT = 2.0
"""Seconds that a condition is waited for which another process generates; it is skipped then."""

_PULL_WAIT = 10.0


@dataclass
class Pulled:
    """What a pull did."""

    manifest: Manifest
    fetched: int = 0
    fetched_bytes: int = 0
    conditions: int = 0
    """Conditions that gained completions or a plan."""
    completions: int = 0
    """Completions that were not here before."""
    pages: int = 0
    skipped: list[str] = field(default_factory=list)
    """Why a condition was left out, one sentence each."""
    notes: list[str] = field(default_factory=list)


def pull(
    layout: StoreLayout,
    location: Location,
    *,
    experiment: str,
    known: bool,
    on_transfer: OnTransfer = lambda moved, total: None,
) -> Pulled:
    """Have the store hold what the bundle holds, besides what it has.

    Args:
        known: whether the experiment has a file on this machine. Where it has none, the bundle's must be one that this
            release can read.

    Raises:
        BundleError: the bundle cannot be read, is damaged or malicious, or disagrees with the store; nothing is
            changed then.
        StorageError: the store cannot be written, or another process pulls into it.
    """
    content = location.read_manifest()
    if content is None:
        raise BundleError(
            f"There is no bundle of {experiment!r} at {location.shown}; check the URL, or push from the machine that "
            f"has the results."
        )
    manifest = read_manifest(content, experiment=experiment, where=location.shown)
    layout.prepare()
    with pull_lock(layout, timeout=_PULL_WAIT):
        return _Puller(layout, location, manifest, known, on_transfer).run()


@dataclass
class _Puller:
    layout: StoreLayout
    location: Location
    manifest: Manifest
    known: bool
    on_transfer: OnTransfer

    def __post_init__(self) -> None:
        self._incoming = StoreLayout(self.layout.incoming)
        self._last = _last_pulled(self.layout, self.manifest.experiment)
        self._outcome = Pulled(self.manifest)
        self._left_out: set[str] = set()

    def run(self) -> Pulled:
        wanted = [entry for entry in self.manifest.files if self._wanted(entry)]
        self._fetch(wanted)
        fingerprints = sorted({name for entry in wanted if (name := _place(entry).fingerprint) is not None})
        try:
            self._check_documents()
            for fingerprint in fingerprints:
                planned_merge(self.layout, self._incoming, fingerprint, self.location.shown)
        except BundleError:
            shutil.rmtree(self._incoming.root, ignore_errors=True)
            raise
        for fingerprint in fingerprints:
            self._take_condition(fingerprint)
        for entry in wanted:
            if _place(entry).kind == "page":
                _copy(self._incoming.root / entry.path, self.layout.root / entry.path)
                self._outcome.pages += 1
            elif _place(entry).kind == "document":
                _copy(self._incoming.root / entry.path, self.layout.pulled / entry.path)
        self._keep_record()
        shutil.rmtree(self._incoming.root, ignore_errors=True)
        return self._outcome

    def _wanted(self, entry: Entry) -> bool:
        """Whether a file of the bundle is to be fetched: it is not here, nor is what it holds."""
        place = _place(entry)
        if place.kind == "document":
            return not _is(self.layout.pulled / entry.path, entry)
        file = self.layout.root / entry.path
        if _is(file, entry):
            return False
        if place.kind == "page":
            # A page that this machine has made, or made anew, stays.
            last = self._last.get(entry.path)
            return not file.exists() or (last is not None and _is(file, last))
        if place.fingerprint is not None and place.kind in ("chunk", "plan"):
            # A chunk that is archived here is not fetched again, nor one that was taken before and is archived since.
            try:
                archived = archived_chunk_ids(self.layout, place.fingerprint)
            except DamagedFileError:
                return True
            return not archived or (place.chunk_id not in archived and self._last.get(entry.path) != entry)
        return True

    def _fetch(self, wanted: list[Entry]) -> None:
        """Have the wanted files, and no others, in `incoming/`."""
        needed = {self._incoming.root / entry.path: entry for entry in wanted}
        for file in sorted(self._incoming.root.rglob("*")):
            if file.is_file() and file not in needed:
                file.unlink()
        missing = {file: entry for file, entry in needed.items() if not _is(file, entry)}
        total = sum(entry.size for entry in missing.values())
        free = shutil.disk_usage(self.layout.root).free
        if 2 * total > free:  # in `incoming/` and in its place
            raise BundleError(
                f"{self.location.shown}: {total / 2**30:.1f} GiB are missing here, which takes twice that while they "
                f"are put in place, and {free / 2**30:.1f} GiB are free at {self.layout.root}; free some space."
            )

        def bring(file: Path) -> int:
            fetch(self.location, missing[file], file)
            return missing[file].size

        for size in at_once(self.location.readers, bring, missing):
            self._outcome.fetched += 1
            self._outcome.fetched_bytes += size
            self.on_transfer(self._outcome.fetched_bytes, total)

    def _check_documents(self) -> None:
        """Refuse a bundle whose experiment file is of another experiment, or unfit where it is to be used.

        Raises:
            BundleError: see above.
        """
        where, name = self.location.shown, self.manifest.experiment
        entry = self.manifest.by_path.get(EXPERIMENT_FILE)
        if entry is None:
            if self.known:
                return
            raise BundleError(f"{where}: it holds no experiment file, and {name!r} has none on this machine.")
        fetched = self._incoming.root / EXPERIMENT_FILE
        file = fetched if fetched.exists() else self.layout.pulled / EXPERIMENT_FILE
        try:
            stated = read_document(file).get("name") if self.known else load_experiment(file).name
        except ExperimentError as error:
            reason = str(error).removeprefix(f"{file}: ")
            raise BundleError(f"{where}: its experiment file cannot be used: {reason}") from error
        if stated != name:
            raise BundleError(f"{where}: its experiment file is not that of {name!r}; nothing was taken.")

    def _take_condition(self, fingerprint: str) -> None:
        try:
            with generation_lock(self.layout, fingerprint, timeout=_BUSY_WAIT):
                # Planned anew: the store may have changed before the lock was ours.
                merge = planned_merge(self.layout, self._incoming, fingerprint, self.location.shown)
                take(self.layout, self._incoming, merge)
        except LockHeldError:
            self._left_out.add(fingerprint)
            self._outcome.skipped.append(
                f"Condition {fingerprint[:12]} is being generated by another process and was left out; pull again when "
                f"that is done."
            )
            return
        self._outcome.conditions += merge.changes
        self._outcome.completions += merge.n_gained
        if merge.note is not None:
            self._outcome.notes.append(merge.note)
            self._left_out.add(fingerprint)

    def _keep_record(self) -> None:
        """Note what was taken, and put the experiment file where it can be used if there is none."""
        taken = {e.path: e for e in self.manifest.files if _place(e).fingerprint not in self._left_out}
        record = make_manifest(self.manifest.experiment, self.manifest.made, taken)
        make_folder(self.layout.pulled)
        write_durably(self.layout.pulled / MANIFEST, lambda temporary: temporary.write_bytes(record.to_bytes()))
        own = experiment_copy(self.layout, self.manifest.experiment)
        if not self.known and not own.exists():
            _copy(self.layout.pulled / EXPERIMENT_FILE, own)


def experiment_copy(layout: StoreLayout, experiment: str) -> Path:
    """Where the experiment file of a bundle is put if this machine has none of that name."""
    return layout.root / f"{experiment}.yaml"


def _last_pulled(layout: StoreLayout, experiment: str) -> dict[str, Entry]:
    """What was taken by the last pull, by path; nothing where no record can be read."""
    file = layout.pulled / MANIFEST
    try:
        return read_manifest(file.read_bytes(), experiment=experiment, where=str(file)).by_path
    except (OSError, BundleError):
        return {}


def _is(file: Path, entry: Entry) -> bool:
    """Whether a file has the content of an entry."""
    try:
        if not file.is_file() or file.stat().st_size != entry.size:
            return False
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest() == entry.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror}.") from error


def _copy(source: Path, target: Path) -> None:
    make_folder(target.parent)
    remove_stale_temporaries(target.parent)
    copy_durably(source, target)


def _place(entry: Entry) -> Place:
    place = place_of(entry.path)
    assert place is not None  # `read_manifest` lets no other path through
    return place
