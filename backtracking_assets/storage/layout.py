"""Where the files of one experiment stand."""

import re
from dataclasses import dataclass
from pathlib import Path

from backtracking_assets.errors import StorageError
from backtracking_assets.records import Subject, Variant
from backtracking_assets.unwritable import SAFE, cannot_write, refusal

DATABASE_FILE = "backtracking.duckdb"
PROGRESS_SUFFIX = ".partial.safetensors"
"""Of the file that keeps how far the chunk at work is."""

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoreLayout:
    """Paths of one experiment's output folder; nothing exists on disk before `prepare`."""

    root: Path
    database_file: str = DATABASE_FILE
    """Another name while a database is made anew beside the one that is there."""

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    @property
    def database(self) -> Path:
        return self.root / self.database_file

    @property
    def database_log(self) -> Path:
        """DuckDB's write-ahead log; there after a writer was killed, and until the next one."""
        return self.root / f"{self.database_file}.wal"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def means(self) -> Path:
        """Mean outputs by their digest, and what they were computed from."""
        return self.root / "means"

    @property
    def set_aside(self) -> Path:
        return self.root / "set_aside"

    def journal_of(self, fingerprint: str) -> Path:
        """Folder of one condition's plan and finished chunks."""
        return self.journal / _checked(fingerprint)

    def plan_of(self, fingerprint: str) -> Path:
        return self.journal_of(fingerprint) / "plan.json"

    def chunk_file(self, fingerprint: str, chunk_id: str) -> Path:
        return self.journal_of(fingerprint) / f"{chunk_id}.parquet"

    def progress_file(self, fingerprint: str, chunk_id: str) -> Path:
        """How far the chunk at work is; it stays on this machine."""
        return self.journal_of(fingerprint) / f"{chunk_id}{PROGRESS_SUFFIX}"

    def archive_of(self, fingerprint: str) -> Path:
        """File with every completion of one condition."""
        return self.archive / f"{_checked(fingerprint)}.parquet"

    def generation_lock_of(self, fingerprint: str) -> Path:
        return self.locks / f"{_checked(fingerprint)}.lock"

    def turn_of(self, cell: Subject) -> Path:
        """Lock file of a cell or a prompt variant that a sweep is at work on."""
        if isinstance(cell, Variant):
            return self.locks / f"variant_{cell.name}.turn"
        return self.locks / f"{cell.layer_subset}_at_{cell.scale!r}.turn"

    @property
    def whole_sweep_lock(self) -> Path:
        return self.locks / "whole_sweep.lock"

    @property
    def database_lock(self) -> Path:
        return self.locks / ("database.lock" if self.database_file == DATABASE_FILE else "rebuilding.lock")

    @property
    def pull_lock(self) -> Path:
        return self.locks / "pull.lock"

    @property
    def incoming(self) -> Path:
        """Files of a bundle that are fetched and not taken yet."""
        return self.root / "incoming"

    @property
    def pulled(self) -> Path:
        """The manifest and the documents of the bundle that was pulled last."""
        return self.root / "pulled"

    @property
    def imported(self) -> Path:
        """Runs of other studies, a folder each."""
        return self.root / "imported"

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            StorageError: a folder cannot be made or written, found by writing into each.
        """
        for folder in (self.root, self.journal, self.archive, self.locks, self.reports, self.set_aside):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # Permission bits do not tell: the file system may be read-only or full, and root passes every bit.
                if (refused := refusal(folder)) is not None:
                    raise refused
            except OSError as error:
                in_the_way = next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None)
                reason = f"{in_the_way} is not a folder" if in_the_way else error.strerror or str(error)
                kind = type(cannot_write(folder, error))
                raise kind(
                    f"The output folder {folder} cannot be written ({reason}); {SAFE}: make it writable or free some "
                    f"space, then run the same command again, or set BACKTRACKING_HOME to another folder."
                ) from error


def is_fingerprint(text: str) -> bool:
    """Whether a text has the form of a fingerprint: 64 lower-case hexadecimal digits."""
    return _FINGERPRINT.fullmatch(text) is not None


def _checked(fingerprint: str) -> str:
    """The fingerprint, refused unless it is one: it becomes a file name, and bundles come from elsewhere."""
    if not is_fingerprint(fingerprint):
        raise StorageError(f"{fingerprint!r} is not a fingerprint: 64 hexadecimal digits were expected.")
    return fingerprint
