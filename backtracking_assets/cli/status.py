"""`backtracking status`."""

import json
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.status import CellStatus, planned_status
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.reporting.text import visible

_STYLES = {"done": "green", "partial": "yellow", "stale": "magenta", "missing": "dim"}


def show_status(name: str, as_json: bool, console: Console) -> None:
    """Print how far every planned cell is.

    Raises:
        BacktrackingError: a source or the store cannot be read.
    """
    experiment = load_experiment(name)
    statuses = planned_status(OpenExperiment(experiment, download=False))
    if as_json:
        document = {
            "experiment": experiment.name,
            "completions_per_cell": experiment.completions_per_cell,
            "counts": _counts(statuses),
            "cells": [
                {
                    **asdict(status.cell),
                    "state": status.state,
                    "completions": status.n_completions,
                    "planned": status.n_planned,
                    "reason": status.reason,
                }
                for status in statuses
            ],
        }
        print(json.dumps(document, indent=2))
        return
    table = Table(title=f"{experiment.name}: {len(statuses)} planned cells", title_justify="left")
    for column in ("layer subset", "scale", "state", "completions", "why"):
        table.add_column(column, justify="right" if column in ("scale", "completions") else "left")
    for status in statuses:
        table.add_row(
            escape(status.cell.layer_subset),
            f"{status.cell.scale:g}",
            status.state,
            f"{status.n_completions} of {status.n_planned}",
            escape(visible(status.reason)),
            style=_STYLES[status.state],
        )
    console.print(table)
    console.print(", ".join(f"{count} {state}" for state, count in _counts(statuses).items() if count) + ".")


def _counts(statuses: list[CellStatus]) -> dict[str, int]:
    return {state: sum(status.state == state for status in statuses) for state in _STYLES}
