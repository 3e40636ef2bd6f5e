"""What is shown of imported runs: a run's own page, and its figures beside those that were measured here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backtracking_assets.records import Cell

Row = Mapping[str, Any]
"""A row of one of the tables of imported runs, by column."""


@dataclass(frozen=True)
class ImportedReport:
    """Contents of the page of an imported run."""

    run: Row
    phase1: Row | None
    """The run that it went out from; None where none is linked."""
    figures: tuple[Row, ...]
    faults: tuple[Row, ...]
    unreadable: tuple[Row, ...]
    experiment: str
    experiment_model: str
    """What the experiment that it is imported into runs."""


@dataclass(frozen=True)
class PublishedCell:
    """A published figure of a cell that this experiment measures too."""

    run_id: str
    file: str
    cell: Cell
    measure: str
    """A name in `measures.MEASURES`."""
    value: float
    n: int | None
    """Completions that it was published for; None where the file does not say."""
    known_fault: bool
    """Whether a fault of the run makes the figure an artifact."""


@dataclass(frozen=True)
class PublishedSection:
    """Published beside measured, as the sweep's page shows it. Empty where no run is imported."""

    runs: tuple[str, ...] = ()
    """A sentence on each imported run with a sweep."""
    cells: tuple[PublishedCell, ...] = ()
    left_out: tuple[str, ...] = ()
    """Why published cells are not beside measured ones, a sentence each."""
