"""A cell that one asset hands on to the next one in the same process, which then does not read it again.

It is taken only where the database is as this process left it: whatever else was written, here or by another process,
has the cell read anew. One cell of a store is kept at a time, and none after its page.
"""

from dataclasses import dataclass
from pathlib import Path

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import StoredCell, detected_cell, linked_cell, refuse_outdated
from backtracking_assets.records import Cell
from backtracking_assets.storage.database import reading, state_of
from backtracking_assets.storage.left_as import Mark


@dataclass(frozen=True)
class Found:
    """A cell with its completions, and with its detections where these were asked for."""

    stored: StoredCell
    at: Mark | None
    """The state of the database that this is true of; None where that is not known."""
    baseline: StoredCell | None = None
    """The baseline with all its rows, where an asset before has looked it up."""

    def written(self, stored: StoredCell, baseline: StoredCell | None = None) -> "Found":
        """What is true after one writing of this process that leaves the cell as it is given."""
        return Found(stored, None if self.at is None else self.at.after(1), baseline or self.baseline)


_handed_on: dict[Path, Found] = {}


def hand_on(found: Found) -> None:
    """Keep a cell for the next asset."""
    if found.at is not None:
        _handed_on[found.stored.opened.layout.database] = found


def linked(opened: OpenExperiment, cell: Cell) -> Found:
    """A linked cell with its completions.

    Raises:
        StorageError: see `linked_cell`.
    """
    return _found(opened, cell, detected=False)


def detected(opened: OpenExperiment, cell: Cell) -> Found:
    """A linked cell with its completions and detections.

    Raises:
        StorageError: see `detected_cell`.
    """
    return _found(opened, cell, detected=True)


def taken(opened: OpenExperiment, cell: Cell, *, detected: bool) -> Found | None:
    """What was handed on of a cell, if it is true of the database now; None otherwise.

    Raises:
        StorageError: it is not what the experiment file asks for now.
    """
    kept = _handed_on.pop(opened.layout.database, None)
    if kept is None or kept.stored.cell != cell or kept.at != state_of(opened.layout):
        return None
    stored = kept.stored.seen_by(opened)
    if detected and not stored.has_detections:
        return None
    refuse_outdated(stored)
    return Found(stored, kept.at, None if kept.baseline is None else kept.baseline.seen_by(opened))


def _found(opened: OpenExperiment, cell: Cell, *, detected: bool) -> Found:
    if (kept := taken(opened, cell, detected=detected)) is not None:
        return kept
    state = state_of(opened.layout)  # before it is read, so that what is written meanwhile shows in the next state
    with reading(opened.layout):
        if detected:
            stored = detected_cell(opened, cell)
            stored.load()
        else:
            stored = linked_cell(opened, cell)
            _ = stored.completions
    return Found(stored, state)
