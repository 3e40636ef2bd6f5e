"""`backtracking status`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import sweep_report_path
from backtracking_assets.assets.status import CellStatus
from backtracking_assets.assets.sweep_status import ResultStatus, SweepStatus, sweep_status
from backtracking_assets.assets.variant_status import VariantStatus, variants_status
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.reporting.text import visible

_LONGEST_TABLE = 200
"""Cells that are shown a row each."""

_STYLES = {"done": "green", "partial": "yellow", "stale": "magenta", "missing": "dim", "waiting": "cyan"}


def show_status(name: str, as_json: bool, console: Console) -> None:
    """Print how far every planned cell is, why, what the next sweep does, and whether the sweep's report is current.

    Raises:
        BacktrackingError: a source or the store cannot be read.
    """
    experiment = load_experiment(name)
    opened = OpenExperiment(experiment, download=False)
    found, variants = sweep_status(opened), variants_status(opened)
    if as_json:
        document = {
            "experiment": experiment.name,
            "completions_per_cell": experiment.completions_per_cell,
            "counts": _counts(found.cells),
            "cells": [_cell(status) for status in found.cells],
            **({"variants": [_variant(status) for status in variants]} if experiment.phase1 is not None else {}),
            "report": _report(opened, found),
        }
        print(json.dumps(document, indent=2))
        return
    table = Table(title=f"{experiment.name}: {len(found.cells)} planned cells", title_justify="left")
    for column in ("layer subset", "scale", "state", "completions", "why", "next sweep"):
        table.add_column(column, justify="right" if column in ("scale", "completions") else "left")
    for rows in _folded(found.cells):
        status = rows[0]
        table.add_row(
            escape(status.cell.layer_subset),
            ", ".join(f"{row.cell.scale:g}" for row in rows),
            status.state,
            f"{status.n_completions} of {status.n_planned}",
            escape(visible(status.reason)),
            escape(visible(status.next)),
            style=_STYLES[status.state],
        )
    console.print(table)
    if variants:
        console.print(_variants_table(experiment.name, variants))
    console.print(f"Comparisons (subset_sweep, scale_sweep): {_in_words(found.comparisons)}.", soft_wrap=True)
    console.print(
        f"Report (phase2_report): {_in_words(found.page)}; the digest of the cells that are done is "
        f"{found.cells_digest}.",
        soft_wrap=True,
        highlight=False,
    )
    if variants:
        console.print(f"Prompt variants: {_counted(variants)}.")
    console.print(f"{_counted(found.cells)}.")


def _folded(statuses: Sequence[CellStatus]) -> list[list[CellStatus]]:
    """The cells of each row: one, and in a long plan those of one subset of which the same is to be said."""
    if len(statuses) <= _LONGEST_TABLE:
        return [[status] for status in statuses]
    rows: dict[CellStatus, list[CellStatus]] = {}
    for status in statuses:
        alike = replace(status, cell=replace(status.cell, scale=0.0), version="")
        rows.setdefault(alike, []).append(status)
    return list(rows.values())


def _variants_table(name: str, variants: list[VariantStatus]) -> Table:
    table = Table(title=f"{name}: {len(variants)} prompt variants of phase 1", title_justify="left")
    for column in ("variant", "state", "completions", "why", "next sweep"):
        table.add_column(column, justify="right" if column == "completions" else "left")
    for status in variants:
        table.add_row(
            escape(status.variant.name),
            status.state,
            f"{status.n_completions} of {status.n_planned}",
            escape(visible(status.reason)),
            escape(visible(status.next)),
            style=_STYLES[status.state],
        )
    return table


def _variant(status: VariantStatus) -> dict[str, Any]:
    return {"variant": status.variant.name, **_how_far(status)}


def _cell(status: CellStatus) -> dict[str, Any]:
    return {**asdict(status.cell), **_how_far(status), "waits_for": status.waits_for}


def _how_far(status: CellStatus | VariantStatus) -> dict[str, Any]:
    return {
        "state": status.state,
        "completions": status.n_completions,
        "planned": status.n_planned,
        "reason": status.reason,
        "next": status.next,
    }


def _report(opened: OpenExperiment, found: SweepStatus) -> dict[str, Any]:
    def result(status: ResultStatus) -> dict[str, Any]:
        return {"state": status.state, "cells_changed": status.n_changed}

    comparisons = result(found.comparisons)
    return {
        "cells": len(found.shown),
        "cells_digest": found.cells_digest,
        # Both are slices of the same comparisons.
        "subset_sweep": comparisons,
        "scale_sweep": comparisons,
        "page": {**result(found.page), "path": str(sweep_report_path(opened))},
    }


def _in_words(status: ResultStatus) -> str:
    if status.state == "missing":
        return "not made"
    if status.state == "current":
        return "current"
    if status.n_changed == 0:
        return "older than the plan or the comparisons"
    return f"older than the cells ({status.n_changed} {'cell' if status.n_changed == 1 else 'cells'} changed since)"


def _counted(statuses: Sequence[CellStatus | VariantStatus]) -> str:
    return ", ".join(f"{count} {state}" for state, count in _counts(statuses).items() if count)


def _counts(statuses: Sequence[CellStatus | VariantStatus]) -> dict[str, int]:
    return {state: sum(status.state == state for status in statuses) for state in _STYLES}
