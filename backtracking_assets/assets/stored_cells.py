"""What the store holds of a cell, read together: its row, completions, detections, metrics and checks."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_completions import StoredCompletions
from backtracking_assets.conditions import Condition, digest
from backtracking_assets.errors import StorageError
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell, Variant
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage import queries
from backtracking_assets.storage.database import reading

if TYPE_CHECKING:  # pandas is imported only where something is measured
    from backtracking_assets.analysis.counts import CellRows

_Subject = TypeVar("_Subject", Cell, Variant)


@dataclass(frozen=True)
class StoredCell(StoredCompletions):
    """A cell that is linked to its completions."""

    cell: Cell

    @property
    def subject(self) -> Cell:
        return self.cell

    @property
    def condition(self) -> Condition:
        """The condition that the experiment file asks for now."""
        return self.opened.condition(self.cell)

    @property
    def rows(self) -> "CellRows":
        from backtracking_assets.analysis.counts import CellRows

        return CellRows(self.cell, self.completions, self.detections)

    def page_version(self, baseline: "StoredCell | None") -> str:
        """Digest of what the cell's page shows beside this baseline, or beside the word that there is none."""
        return digest([self.version(), self.opened.statistics_digest, None if baseline is None else baseline.version()])


def linked_cell(opened: OpenExperiment, cell: Cell) -> StoredCell:
    """A cell whose completions are what the experiment file asks for now.

    Raises:
        StorageError: they are not there, or are those of an earlier experiment file, checkpoint or problem file.
    """
    row = queries.cell_row(opened.layout, cell)
    if row is None:
        raise StorageError(f"Cell {cell} has no completions yet; materialize its generations first.")
    stored = stored_row(opened, row)
    if not is_current(stored):
        raise StorageError(
            f"Cell {cell} holds completions that the experiment does not ask for any more: its checkpoint, problems, "
            "sampling or layers have changed; materialize its generations first."
        )
    return stored


def detected_cell(opened: OpenExperiment, cell: Cell) -> StoredCell:
    """A linked cell whose completions are read by the rules of the experiment file as it is now.

    Raises:
        StorageError: see `linked_cell`, or the detections are missing or by other rules.
    """
    stored = linked_cell(opened, cell)
    if not stored.detected:
        raise StorageError(f"Cell {cell} is not read by the rules as they are now; materialize its detections first.")
    return stored


def current_cells(opened: OpenExperiment, cells: Iterable[Cell]) -> list[StoredCell]:
    """Those of the cells whose completions and detections are what the experiment file asks for now."""
    return current_among(opened, cells, _by_cell(queries.cells(opened.layout)))


def current_among(opened: OpenExperiment, cells: Iterable[Cell], rows: Mapping[Cell, dict]) -> list[StoredCell]:
    """`current_cells`, given the rows of the table of cells."""
    found = [stored_row(opened, rows[cell]) for cell in cells if cell in rows]
    return [stored for stored in found if stored.detected and is_current(stored)]


def is_current(stored: StoredCell) -> bool:
    """Whether a stored cell's completions are what the experiment file asks for now."""
    condition = stored.opened.condition_if_known(stored.cell)
    return condition is not None and stored.is_asked_for(condition.fingerprint)


def current_baseline(opened: OpenExperiment) -> StoredCell | None:
    """A cell at scale 1.0 that is current and fails no check that must hold; None while there is none.

    All such cells share their completions.
    """
    with reading(opened.layout):
        rows = _by_cell(queries.cells(opened.layout, scale=BASELINE_SCALE))
        failing = queries.failing_checks(opened.layout, scale=BASELINE_SCALE).to_pylist()
    return baseline_among(opened, rows, outcomes_by_cell(failing))


def baseline_among(
    opened: OpenExperiment, rows: Mapping[Cell, dict], checks: Mapping[Cell, Iterable[CheckOutcome]]
) -> StoredCell | None:
    """`current_baseline`, given the rows of the table of cells and the outcomes of checks."""
    at_one = [Cell(name, BASELINE_SCALE) for name in opened.subsets]
    found = current_among(opened, at_one, rows)
    return next((stored for stored in found if not failed(checks.get(stored.cell, ()))), None)


def failed(outcomes: Iterable[CheckOutcome]) -> list[CheckOutcome]:
    """Those outcomes of checks that must hold and do not."""
    return [outcome for outcome in outcomes if outcome.severity == "error" and not outcome.passed]


def measured_cells(opened: OpenExperiment) -> set[Cell]:
    """Cells whose metrics are computed by the statistics of the experiment file as it is now."""
    wanted = opened.statistics_digest
    return {cell for cell, by in queries.measured_by(opened.layout).items() if by == wanted}


def metrics_of(opened: OpenExperiment, cell: Cell) -> pa.Table:
    """A cell's rows of `records.METRICS`."""
    return queries.metrics(opened.layout, cell)


def checks_of(opened: OpenExperiment, asset: str | None = None) -> dict[Cell, tuple[CheckOutcome, ...]]:
    """The outcomes of all checks by cell, or of those of one asset."""
    rows = queries.checks(opened.layout).to_pylist()
    return outcomes_by_cell(row for row in rows if asset in (None, row["asset"]))


def checks_of_cell(opened: OpenExperiment, cell: Cell) -> tuple[CheckOutcome, ...]:
    """The outcomes of all checks of one cell."""
    return outcomes_by_cell(queries.checks(opened.layout, cell).to_pylist()).get(cell, ())


def outcomes_by_cell(rows: Iterable[Mapping[str, Any]]) -> dict[Cell, tuple[CheckOutcome, ...]]:
    """Rows of `records.CHECKS` as outcomes by cell."""
    return outcomes_by(rows, lambda row: Cell(row["layer_subset"], row["scale"]))


def outcomes_by(
    rows: Iterable[Mapping[str, Any]], subject_of: Callable[[Mapping[str, Any]], _Subject]
) -> dict[_Subject, tuple[CheckOutcome, ...]]:
    """Rows of a table of checks as outcomes by what they are of."""
    found: dict[_Subject, list[CheckOutcome]] = {}
    for row in rows:
        outcome = CheckOutcome(row["name"], row["passed"], row["severity"], row["description"])
        found.setdefault(subject_of(row), []).append(outcome)
    return {subject: tuple(outcomes) for subject, outcomes in found.items()}


def stored_row(opened: OpenExperiment, row: dict) -> StoredCell:
    """A cell from its row in the table of cells."""
    return StoredCell(
        opened,
        row["fingerprint"],
        row["problem_set_digest"],
        row["n_samples"],
        row["rules_digest"],
        Cell(row["layer_subset"], row["scale"]),
    )


def _by_cell(table: pa.Table) -> dict[Cell, dict]:
    rows = table.drop_columns(["committed_at"]).to_pylist()  # nobody looks at it, and to read a time imports pandas
    return {Cell(row["layer_subset"], row["scale"]): row for row in rows}
