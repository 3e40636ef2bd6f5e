"""How far the plan is: by fingerprints, which are the authority where Dagster's own staleness stops looking."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.records import Cell
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
    """The status of every planned cell, in the order of the plan. Reads the store and the sources, generates nothing.

    Raises:
        BacktrackingError: a source or the store cannot be read.
    """
    rows = {Cell(row["layer_subset"], row["scale"]): row for row in queries.cells(opened.layout).to_pylist()}
    counts = queries.completion_counts(opened.layout)
    metrics = queries.metrics(opened.layout)
    measured = set(zip(metrics["layer_subset"].to_pylist(), metrics["scale"].to_pylist(), strict=True))
    return [
        _status(opened, cell, rows.get(cell), counts, (cell.layer_subset, cell.scale) in measured)
        for cell in opened.experiment.planned_cells()
    ]


def _status(opened: OpenExperiment, cell: Cell, row: dict | None, counts: dict[str, int], measured: bool) -> CellStatus:
    planned = opened.experiment.completions_per_cell
    fingerprint = opened.condition(cell).fingerprint
    present = min(_completions_there(opened, fingerprint, counts), planned)

    def status(state: State, reason: str) -> CellStatus:
        return CellStatus(cell, state, present, planned, reason)

    if row is None:
        if present:
            return status(
                "partial",
                f"{present} of {planned} completions are there"
                if present < planned
                else "the completions are there, the cell is not linked to them",
            )
        return status("missing", "nothing is there")
    if row["fingerprint"] != fingerprint:
        return status("stale", "the condition has changed: checkpoint, prompt, sampling or layers")
    if row["problem_set_digest"] != opened.problem_set_digest:
        return status("stale", "the problems have changed")
    if row["n_samples"] != opened.experiment.problems.samples:
        return status("stale", "the number of samples has changed")
    if row["rules_digest"] is None:
        return status("partial", "the completions are not read for triggers and answers")
    if row["rules_digest"] != opened.rules_digest:
        return status("stale", "the detection rules have changed")
    if not measured:
        return status("partial", "the metrics are not computed")
    if not report_path(opened, cell).is_file():
        return status("partial", "the report is not written")
    return status("done", "")


def _completions_there(opened: OpenExperiment, fingerprint: str, counts: dict[str, int]) -> int:
    try:
        finished, _ = journal_progress(opened.layout, fingerprint)
    except DamagedFileError:
        finished = 0
    return counts.get(fingerprint, 0) + finished


def report_path(opened: OpenExperiment, cell: Cell) -> Path:
    """Where a cell's page stands."""
    return opened.layout.reports / "cells" / cell.layer_subset / f"scale_{cell.scale:g}.html"


def sweep_report_path(opened: OpenExperiment) -> Path:
    """Where the sweep's page stands."""
    return opened.layout.reports / "phase2_report.html"
