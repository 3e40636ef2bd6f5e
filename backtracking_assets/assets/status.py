"""How far the plan is: by fingerprints, which are the authority where Dagster's own staleness stops looking."""

from dataclasses import dataclass
from typing import Literal

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import has_version, report_path
from backtracking_assets.assets.stored_cells import (
    StoredCell,
    checks_of,
    current_baseline,
    failed,
    measured_cells,
    stored_row,
)
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.storage import queries
from backtracking_assets.storage.journal import journal_progress
from backtracking_assets.storage.parquet import DamagedFileError

State = Literal["done", "partial", "stale", "missing"]


@dataclass(frozen=True)
class CellStatus:
    """How far one planned cell is."""

    cell: Cell
    state: State
    n_completions: int
    """Completions of the condition that the experiment file asks for now."""
    n_planned: int
    reason: str
    """Why it is not done; empty where it is."""


def planned_status(opened: OpenExperiment) -> list[CellStatus]:
    """The status of every planned cell, in the order of the plan. Reads the store and the sources, writes nothing.

    Raises:
        BacktrackingError: a source or the store cannot be read.
    """
    metrics = queries.metrics(opened.layout).select(["layer_subset", "scale"]).to_pydict()
    facts = _Facts(
        rows={Cell(row["layer_subset"], row["scale"]): row for row in queries.cells(opened.layout).to_pylist()},
        counts=queries.wanted_counts(opened.layout, list(opened.problems), opened.experiment.problems.samples),
        measured_before={Cell(*pair) for pair in zip(metrics["layer_subset"], metrics["scale"], strict=True)},
        measured=measured_cells(opened),
        checks=checks_of(opened),
        baseline=current_baseline(opened),
    )
    return [_status(opened, cell, facts) for cell in opened.experiment.planned_cells()]


@dataclass(frozen=True)
class _Facts:
    """What the store holds, read once for all cells."""

    rows: dict[Cell, dict]
    counts: dict[str, int]
    """Completions of the problems and samples that are wanted now, by fingerprint."""
    measured_before: set[Cell]
    """Cells with metrics, by whichever statistics."""
    measured: set[Cell]
    checks: dict[Cell, tuple[CheckOutcome, ...]]
    baseline: StoredCell | None


def _status(opened: OpenExperiment, cell: Cell, facts: _Facts) -> CellStatus:
    planned = opened.experiment.completions_per_cell
    fingerprint = opened.condition(cell).fingerprint
    present = facts.counts.get(fingerprint, 0)
    if present < planned:
        present = min(present + _in_journal(opened, fingerprint), planned)

    def status(state: State, reason: str) -> CellStatus:
        return CellStatus(cell, state, present, planned, reason)

    row = facts.rows.get(cell)
    if row is None:
        if present == 0:
            return status("missing", "nothing is there")
        if present < planned:
            return status("partial", f"{present} of {planned} completions are there")
        return status("partial", "the completions are there, the cell is not linked to them")
    if row["fingerprint"] != fingerprint:
        return status("stale", "the condition has changed: checkpoint, prompt, sampling or layers")
    if row["problem_set_digest"] != opened.problem_set_digest:
        return status("stale", "the problems have changed")
    if row["n_samples"] != opened.experiment.problems.samples:
        return status("stale", "the number of samples has changed")
    for outcome in failed(facts.checks.get(cell, ())):
        return status("partial", f"its check {outcome.name} fails: {outcome.description}")
    if row["rules_digest"] is None:
        return status("partial", "the completions are not read for triggers and answers")
    if row["rules_digest"] != opened.rules_digest:
        return status("stale", "the detection rules have changed")
    if cell not in facts.measured_before:
        return status("partial", "the metrics are not computed")
    if cell not in facts.measured:
        return status("stale", "the statistics have changed")
    version = stored_row(opened, row).page_version(facts.baseline)
    if not has_version(report_path(opened, cell), version):
        return status("partial", "its page is not written, or shows older figures or another baseline")
    return status("done", "")


def _in_journal(opened: OpenExperiment, fingerprint: str) -> int:
    try:
        finished, _ = journal_progress(opened.layout, fingerprint)
    except DamagedFileError:
        return 0
    return finished
