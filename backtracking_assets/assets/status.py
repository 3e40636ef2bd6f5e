"""How far the plan is: by fingerprints, which are the authority where Dagster's own staleness stops looking."""

from dataclasses import dataclass, replace
from typing import Literal

from backtracking_assets.analysis.detection import rules_document
from backtracking_assets.analysis.metrics import statistics_digest, statistics_document
from backtracking_assets.assets.changes import (
    changed_texts,
    condition_changes,
    problem_changes,
    rules_changes,
    statistics_changes,
)
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import has_version, report_path
from backtracking_assets.assets.stored_cells import (
    StoredCell,
    baseline_among,
    failed,
    outcomes_by_cell,
    stored_row,
)
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import archived_keys
from backtracking_assets.storage.journal import finished_keys
from backtracking_assets.storage.overview import Overview, Row, overview
from backtracking_assets.storage.parquet import DamagedFileError
from backtracking_assets.storage.rows import Key

State = Literal["done", "partial", "stale", "missing", "waiting"]
CellAsset = Literal["generations", "detections", "metrics", "condition_reports"]


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


_WITH_CHECKS: tuple[CellAsset, ...] = ("generations", "detections", "metrics")


@dataclass(frozen=True)
class _Work:
    """What keeps a cell from being done, and what is done about it."""

    state: State
    reason: str
    next: str
    first_asset: CellAsset


def _status(opened: OpenExperiment, cell: Cell, facts: _Facts) -> CellStatus:
    planned = opened.experiment.completions_per_cell
    if (waiting := opened.waits_for(cell.layer_subset)) is not None:
        reason = f"waiting for {waiting.asset}: {waiting.reason}"
        return CellStatus(cell, "waiting", 0, planned, reason, waiting.remedy, waits_for=waiting.asset)
    present = _n_present(opened, opened.condition(cell).fingerprint, facts.held)
    row = facts.held.cells.get(cell)
    work = _unlinked(present, planned) if row is None else _work(opened, cell, row, facts, present)
    if work is not None:
        return CellStatus(cell, work.state, present, planned, work.reason, work.next, work.first_asset)
    assert row is not None
    return CellStatus(cell, "done", present, planned, "", version=stored_row(opened, row).metrics_version())


def _unlinked(present: int, planned: int) -> _Work:
    if present == 0:
        return _Work("missing", "nothing is there", f"generates {planned}", "generations")
    if present < planned:
        return _Work(
            "partial", f"{present} of {planned} completions are there", _generates(present, planned), "generations"
        )
    reason = "the completions are there, the cell is not linked to them"
    return _Work("partial", reason, "links and reads them", "generations")


def _work(opened: OpenExperiment, cell: Cell, row: Row, facts: _Facts, present: int) -> _Work | None:
    """What is to be done for a cell that was linked before; None where it is done."""
    held = facts.held
    completions = _completions_changes(opened, cell, row, held)
    rules = _rules_changes(opened, row, held)
    statistics = _statistics_changes(opened, cell, held)
    failing = failed(facts.checks.get(cell, ()))
    if changes := completions + rules + statistics:
        first: CellAsset = "generations" if completions or failing else "detections" if rules else "metrics"
        return _Work("stale", "; ".join(changes), _next(opened, cell, row, held, first, present), first)
    if failing:
        reason = f"its check {failing[0].name} fails: {failing[0].description}"
        return _Work("partial", reason, "checks it anew", "generations")
    if row["rules_digest"] is None:
        # Begun with its completions: an interruption may have come before these were checked.
        reason = "the completions are not read for triggers and answers"
        return _Work("partial", reason, "reads the completions", "generations")
    # Checks are stored after what they are of: an interruption may have come between the two.
    checked = facts.checked.get(cell, set())
    unchecked: list[CellAsset] = [asset for asset in _WITH_CHECKS if asset not in checked]
    if unchecked and unchecked[0] != "metrics":
        return _Work("partial", f"the checks of its {unchecked[0]} are not made", "checks it", unchecked[0])
    if unchecked or cell not in held.statistics_digests:
        return _Work("partial", "the metrics are not computed or not checked", "measures", "metrics")
    if not has_version(report_path(opened, cell), stored_row(opened, row).page_version(facts.baseline)):
        reason = "its page is not written, or shows older figures or another baseline"
        return _Work("partial", reason, "writes its page", "condition_reports")
    return None


def _completions_changes(opened: OpenExperiment, cell: Cell, row: Row, held: Overview) -> list[str]:
    """What decides which completions a cell has, where it differs from what it was linked to."""
    changes: list[str] = []
    condition = opened.condition(cell)
    if row["fingerprint"] != condition.fingerprint:
        before = held.conditions.get(row["fingerprint"])
        now = condition.model_dump(mode="json")
        changes += ["another condition"] if before is None else condition_changes(before, now)
    if row["problem_set_digest"] != opened.problem_set_digest:
        changes += problem_changes(held.problem_sets.get(row["problem_set_digest"], ()), opened.problems)
    samples = opened.experiment.problems.samples
    if row["n_samples"] != samples:
        changes.append(f"samples: {row['n_samples']} → {samples} a problem")
    return changes


def _rules_changes(opened: OpenExperiment, row: Row, held: Overview) -> list[str]:
    if row["rules_digest"] in (None, opened.rules_digest):
        return []
    return rules_changes(held.settings.get(row["rules_digest"]), rules_document(opened.experiment.detection))


def _statistics_changes(opened: OpenExperiment, cell: Cell, held: Overview) -> list[str]:
    measured_by = held.statistics_digests.get(cell)
    if measured_by in (None, statistics_digest(opened.experiment.statistics)):
        return []
    return statistics_changes(held.settings.get(measured_by), statistics_document(opened.experiment.statistics))


def _next(opened: OpenExperiment, cell: Cell, row: Row, held: Overview, first: CellAsset, present: int) -> str:
    """What the next sweep does for a stale cell."""
    if first == "detections":
        return "reads anew"
    if first == "metrics":
        return "measures anew"
    same_condition = row["fingerprint"] == opened.condition(cell).fingerprint
    before = held.problem_sets.get(row["problem_set_digest"], ())
    if same_condition and changed_texts(before, opened.problems):
        return "refuses: a problem with another text needs another id"
    planned = opened.experiment.completions_per_cell
    return _generates(present, planned) if present < planned else "links and reads anew"


def _generates(present: int, planned: int) -> str:
    return f"generates {planned - present}" + (f", keeps {present}" if present else "")


def _n_present(opened: OpenExperiment, fingerprint: str, held: Overview) -> int:
    """Completions of the wanted problems and samples that are in the database, in the archive or in the journal."""
    planned = opened.experiment.completions_per_cell
    counted = held.n_wanted.get(fingerprint, 0)
    if counted >= planned:
        return planned
    keys: set[Key] = queries.completion_keys(opened.layout, fingerprint) if counted else set()
    for find in (archived_keys, finished_keys):
        try:
            keys |= find(opened.layout, fingerprint)
        except DamagedFileError:  # the next sweep sets it aside
            continue
    return len(keys.intersection(opened.keys()))
