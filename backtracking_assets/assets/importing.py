"""Importing a run of another study: its files, what its events give of its figures, and its faults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from backtracking_assets.analysis.imported_faults import BaselineAccuracy, baseline_accuracy, imported_faults, token_cap
from backtracking_assets.analysis.imported_figures import imported_figures
from backtracking_assets.conditions import digest
from backtracking_assets.errors import RunFolderError
from backtracking_assets.experiment import Experiment
from backtracking_assets.imported_records import SWEEP_FILES, ImportedEvent, PublishedFigure, RunFolder, Scope
from backtracking_assets.storage.imported_runs import RUNS, imported_rows, store_run
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import table_of
from backtracking_assets.storage.run_folders.folder import read_run_folder
from backtracking_assets.storage.tables import TABLES

IMPORT_VERSION = "1"
"""Raised when other rows come from the same files."""

_PHASE1_KEY = "phase1_run_id"


@dataclass(frozen=True)
class Imported:
    """A run that was imported."""

    run: RunFolder
    row: dict[str, Any]
    """Its row of `imported_runs`."""
    figures: list[dict[str, Any]]
    faults: list[dict[str, Any]]
    linked_by: str
    """How its phase 1 run was found; empty where none is linked."""


def import_run(
    layout: StoreLayout, experiment: Experiment, folder: Path, *, phase1: str | None = None, strict: bool = False
) -> Imported:
    """Read a run folder and store it under its id, in place of what was imported under it before.

    Args:
        phase1: id of the imported run that this one went out from.
        strict: whether a row that cannot be read refuses the folder.

    Raises:
        RunFolderError: the folder cannot be used, or phase 1 is not imported; nothing was stored.
        StorageError: the store cannot be written.
    """
    run = read_run_folder(folder)
    if strict and run.unreadable:
        raise RunFolderError(
            f"{folder}: {run.n_unreadable:,} rows or values cannot be read, the first is {run.unreadable[0]}; with "
            "--strict nothing was imported."
        )
    confidence = experiment.statistics.confidence
    linked, linked_by = _phase1_of(layout, run, phase1)
    figures = imported_figures(run, confidence)
    reference = baseline_accuracy(run.run_id, run.events or (), run.figures, confidence)
    if reference is None and linked is not None:
        reference = _baseline_of_stored(layout, linked, confidence)
    faults = [vars(fault) for fault in imported_faults(run, figures, reference, confidence)]
    row = {
        "run_id": run.run_id,
        "phase1_run_id": linked,
        "folder": run.folder,
        "model_id": run.meta.get("model_id"),
        "started_at": run.meta.get("timestamp"),
        "git_sha": run.meta.get("git_sha"),
        "hostname": run.meta.get("hostname"),
        "files": run.files,
        "absent_files": run.absent,
        "n_events": len(run.events or ()),
        "n_unreadable": run.n_unreadable,
        "token_cap": token_cap(run.events or ()),
        "confidence": confidence,
        "import_digest": digest(
            {"version": IMPORT_VERSION, "files": run.digests, "faults": faults, "phase1": linked, "run": run.run_id}
        ),
    }
    content: dict[str, list[dict[str, Any]]] = {
        RUNS: [row],
        "imported_events": [vars(event) for event in run.events or ()],
        "imported_figures": figures,
        "imported_faults": faults,
        "imported_unreadable": [vars(entry) for entry in run.unreadable],
    }
    tables = {name: _table(name, rows, run.run_id) for name, rows in content.items()}
    store_run(layout, tables, run.selected)
    return Imported(run, row, figures, faults, linked_by)


def _table(name: str, rows: list[dict[str, Any]], run_id: str) -> pa.Table:
    return table_of(({"run_id": run_id, **row} for row in rows), TABLES[name].schema)


def _phase1_of(layout: StoreLayout, run: RunFolder, given: str | None) -> tuple[str | None, str]:
    """The id of the phase 1 run of a run, and how it was found."""
    others = {row["run_id"]: row for row in imported_rows(layout, RUNS) if row["run_id"] != run.run_id}
    if given is not None:
        if given not in others:
            known = ", ".join(sorted(others)) or "none"
            raise RunFolderError(
                f"Phase 1 is said to be run {given!r}, which is not imported; imported runs: {known}. Nothing was "
                "imported: give its folder instead."
            )
        return given, "as given"
    if (stated := run.meta.get(_PHASE1_KEY)) in others:
        return stated, f"as {_PHASE1_KEY} in meta.json says"
    if not set(SWEEP_FILES).intersection(run.files) or run.events is not None:
        return None, ""
    model = run.meta.get("model_id")
    fitting = [
        run_id
        for run_id, row in others.items()
        if row["n_events"] > 0 and (model is None or row["model_id"] in (None, model))
    ]
    return (fitting[0], "the only imported run with events") if len(fitting) == 1 else (None, "")


def _baseline_of_stored(layout: StoreLayout, run_id: str, confidence: float) -> BaselineAccuracy | None:
    """Phase 1's accuracy at its baseline, from a run that is imported."""
    events = [
        ImportedEvent(**{name: value for name, value in row.items() if name != "run_id"})
        for row in imported_rows(layout, "imported_events", run_id)
    ]
    figures = [
        PublishedFigure(
            row["file"], row["entry"], row["measure"], row["published"], Scope(row["variant"], row["condition"])
        )
        for row in imported_rows(layout, "imported_figures", run_id)
        if row["published"] is not None
    ]
    return baseline_accuracy(run_id, events, figures, confidence)
