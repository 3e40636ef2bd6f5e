"""How far the plan is: by fingerprints, which are the authority where Dagster's own staleness stops looking."""

from dataclasses import dataclass, replace

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.outstanding import CellAsset, Found, State, Work, n_present, outstanding
from backtracking_assets.assets.page_files import has_version, report_path
from backtracking_assets.assets.stored_cells import StoredCell, baseline_among, outcomes_by_cell, stored_row
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage.overview import Overview, overview


@dataclass(frozen=True)
class CellStatus:
    """How far one planned cell is."""

    cell: Cell
    state: State
    n_completions: int
    """Completions of the condition that the experiment file asks for now."""
    n_planned: int
    reason: str
    """Why it is not done, all reasons; empty where it is."""
    next: str = ""
    """What the next sweep does for it; empty where it is done."""
    first_asset: CellAsset | None = None
    """The asset that the next sweep begins with; it and those after it are materialized. None where it is done."""
    waits_for: str = ""
    """What its subset waits for, such as `selected_components`; empty where it waits for nothing."""
    version: str = ""
    """Digest of what its figures are computed from and by; empty where it is not done."""

    @property
    def subject(self) -> Cell:
        return self.cell


def planned_status(opened: OpenExperiment, held: Overview | None = None) -> list[CellStatus]:
    """The status of every planned cell, in the order of the plan. Reads the store and the sources, writes nothing.

    Args:
        held: what the database holds, where it is read already.

    Raises:
        BacktrackingError: a source or the store cannot be read.
    """
    held = read_overview(opened) if held is None else held
    checks = outcomes_by_cell(held.checks)
    checked: dict[Cell, set[str]] = {}
    for row in held.checks:
        checked.setdefault(Cell(row["layer_subset"], row["scale"]), set()).add(row["asset"])
    facts = _Facts(held, checks, checked, baseline_among(opened, held.cells, checks))
    return _shared([_status(opened, cell, facts) for cell in opened.experiment.planned_cells()], opened)


def read_overview(opened: OpenExperiment) -> Overview:
    """What the database holds, and how many of the completions that are wanted now.

    Raises:
        BacktrackingError: the problems or the store cannot be read.
    """
    return overview(opened.layout, list(opened.problems), opened.experiment.problems.samples)


def _shared(statuses: list[CellStatus], opened: OpenExperiment) -> list[CellStatus]:
    """Each condition is generated once: of the cells that share it, all but the first link what that one generates."""
    first: dict[str, Cell] = {}
    found: list[CellStatus] = []
    for status in statuses:
        generates = status.first_asset == "generations" and status.n_completions < status.n_planned
        maker = first.setdefault(opened.condition(status.cell).fingerprint, status.cell) if generates else status.cell
        found.append(status if maker == status.cell else replace(status, next=f"links what {maker} generates"))
    return found


@dataclass(frozen=True)
class _Facts:
    """What the store holds, read once for all cells."""

    held: Overview
    checks: dict[Cell, tuple[CheckOutcome, ...]]
    checked: dict[Cell, set[str]]
    """The assets of each cell whose checks are stored."""
    baseline: StoredCell | None


def _status(opened: OpenExperiment, cell: Cell, facts: _Facts) -> CellStatus:
    if (waiting := opened.waits_for(cell.layer_subset)) is not None:
        planned = opened.experiment.completions_per_cell
        reason = f"waiting for {waiting.asset}: {waiting.reason}"
        return CellStatus(cell, "waiting", 0, planned, reason, waiting.remedy, waits_for=waiting.asset)
    found = Found(
        opened,
        opened.condition(cell),
        facts.held.cells.get(cell),
        facts.checks.get(cell, ()),
        frozenset(facts.checked.get(cell, ())),
        facts.held.statistics_digests.get(cell),
        facts.held,
    )
    planned, present = found.n_planned, n_present(found, facts.held.n_wanted)
    work = outstanding(found, present) or _page(found, cell, facts.baseline)
    if work is not None:
        return CellStatus(cell, work.state, present, planned, work.reason, work.next, work.first)
    assert found.row is not None
    return CellStatus(cell, "done", present, planned, "", version=stored_row(opened, found.row).metrics_version())


def _page(found: Found, cell: Cell, baseline: StoredCell | None) -> Work | None:
    assert found.row is not None
    if has_version(report_path(found.opened, cell), stored_row(found.opened, found.row).page_version(baseline)):
        return None
    reason = "its page is not written, or shows older figures or another baseline"
    return Work("partial", reason, "writes its page", "condition_reports")
