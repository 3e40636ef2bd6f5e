"""What the store holds of a cell, read together: its row, completions, detections, metrics and checks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from backtracking_assets.analysis.counts import CellRows
from backtracking_assets.analysis.metrics import statistics_digest
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.conditions import digest
from backtracking_assets.errors import StorageError
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage import queries


@dataclass(frozen=True)
class StoredCell:
    """A cell that is linked to its completions."""

    opened: OpenExperiment
    cell: Cell
    fingerprint: str
    problem_set_digest: str
    n_samples: int
    rules_digest: str | None

    @property
    def detected(self) -> bool:
        """Whether the completions are read by the rules of the experiment file as it is now."""
        return self.rules_digest == self.opened.rules_digest

    @cached_property
    def completions(self) -> pa.Table:
        """Rows of `records.COMPLETIONS`."""
        return queries.completions(
            self.opened.layout,
            self.fingerprint,
            problem_set_digest=self.problem_set_digest,
            n_samples=self.n_samples,
        )

    @cached_property
    def detections(self) -> pa.Table:
        """Rows of `records.DETECTIONS`, by the rules of the experiment file as it is now."""
        return queries.detections(
            self.opened.layout,
            self.fingerprint,
            self.opened.rules_digest,
            problem_set_digest=self.problem_set_digest,
            n_samples=self.n_samples,
        )

    @property
    def rows(self) -> CellRows:
        return CellRows(self.cell, self.completions, self.detections)

    def completions_version(self) -> str:
        """Digest of which completions the cell holds."""
        return digest([self.fingerprint, self.problem_set_digest, self.n_samples])

    def version(self) -> str:
        """Digest of what the cell's figures are computed from: its completions, and the rules they are read by."""
        return digest([self.fingerprint, self.problem_set_digest, self.n_samples, self.rules_digest])

    def metrics_version(self, statistics: str | None = None) -> str:
        """Digest of what the cell's rates are computed from and by which statistics: those of the experiment file."""
        return digest([self.version(), statistics or statistics_digest(self.opened.experiment.statistics)])

    def page_version(self, baseline: "StoredCell | None") -> str:
        """Digest of what the cell's page shows beside this baseline, or beside the word that there is none."""
        statistics = statistics_digest(self.opened.experiment.statistics)
        return digest([self.version(), statistics, None if baseline is None else baseline.version()])


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
    return current_among(opened, cells, _rows_by_cell(opened))


def current_among(opened: OpenExperiment, cells: Iterable[Cell], rows: Mapping[Cell, dict]) -> list[StoredCell]:
    """`current_cells`, given the rows of the table of cells."""
    found = [stored_row(opened, rows[cell]) for cell in cells if cell in rows]
    return [stored for stored in found if stored.detected and is_current(stored)]


def is_current(stored: StoredCell) -> bool:
    """Whether a stored cell's completions are what the experiment file asks for now."""
    opened = stored.opened
    condition = opened.condition_if_known(stored.cell)
    return (
        condition is not None
        and stored.fingerprint == condition.fingerprint
        and stored.problem_set_digest == opened.problem_set_digest
        and stored.n_samples == opened.experiment.problems.samples
    )


def current_baseline(opened: OpenExperiment) -> StoredCell | None:
    """A cell at scale 1.0 that is current and fails no check that must hold; None while there is none.

    All such cells share their completions.
    """
    return baseline_among(opened, _rows_by_cell(opened), checks_of(opened))


def baseline_among(
    opened: OpenExperiment, rows: Mapping[Cell, dict], checks: Mapping[Cell, Iterable[CheckOutcome]]
) -> StoredCell | None:
    """`current_baseline`, given the rows of the table of cells and the outcomes of checks."""
    at_one = [Cell(name, BASELINE_SCALE) for name in opened.experiment.all_subsets()]
    found = current_among(opened, at_one, rows)
    return next((stored for stored in found if not failed(checks.get(stored.cell, ()))), None)


def failed(outcomes: Iterable[CheckOutcome]) -> list[CheckOutcome]:
    """Those outcomes of checks that must hold and do not."""
    return [outcome for outcome in outcomes if outcome.severity == "error" and not outcome.passed]


def measured_cells(opened: OpenExperiment) -> set[Cell]:
    """Cells whose metrics are computed by the statistics of the experiment file as it is now."""
    wanted = statistics_digest(opened.experiment.statistics)
    return {cell for cell, by in queries.measured_by(opened.layout).items() if by == wanted}


def metrics_of(opened: OpenExperiment, cell: Cell) -> pa.Table:
    """A cell's rows of `records.METRICS`."""
    return _of_cell(queries.metrics(opened.layout), cell)


def checks_of(opened: OpenExperiment, asset: str | None = None) -> dict[Cell, tuple[CheckOutcome, ...]]:
    """The outcomes of all checks by cell, or of those of one asset."""
    rows = queries.checks(opened.layout).to_pylist()
    return outcomes_by_cell(row for row in rows if asset in (None, row["asset"]))


def outcomes_by_cell(rows: Iterable[dict]) -> dict[Cell, tuple[CheckOutcome, ...]]:
    """Rows of `records.CHECKS` as outcomes by cell."""
    found: dict[Cell, tuple[CheckOutcome, ...]] = {}
    for row in rows:
        cell = Cell(row["layer_subset"], row["scale"])
        outcome = CheckOutcome(row["name"], row["passed"], row["severity"], row["description"])
        found[cell] = (*found.get(cell, ()), outcome)
    return found


def stored_row(opened: OpenExperiment, row: dict) -> StoredCell:
    """A cell from its row in the table of cells."""
    return StoredCell(
        opened,
        Cell(row["layer_subset"], row["scale"]),
        row["fingerprint"],
        row["problem_set_digest"],
        row["n_samples"],
        row["rules_digest"],
    )


def _rows_by_cell(opened: OpenExperiment) -> dict[Cell, dict]:
    return {Cell(row["layer_subset"], row["scale"]): row for row in queries.cells(opened.layout).to_pylist()}


def _of_cell(table: pa.Table, cell: Cell) -> pa.Table:
    return table.filter((pc.field("layer_subset") == cell.layer_subset) & (pc.field("scale") == cell.scale))
