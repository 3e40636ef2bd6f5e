"""Filling the pages on imported runs from the store."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backtracking_assets.assets.open_experiment import OpenExperiment, component_names
from backtracking_assets.experiment import Experiment
from backtracking_assets.imported_records import SELECTED_LAYERS_FILE, STUDY_BASELINE, SWEEP_FILES
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.reporting.formats import plural
from backtracking_assets.reporting.imported_contents import ImportedReport, PublishedCell, PublishedSection
from backtracking_assets.reporting.imported_report import render_imported_report
from backtracking_assets.storage.durable import write_text_durably
from backtracking_assets.storage.imported_runs import RUNS, imported_rows
from backtracking_assets.storage.layout import StoreLayout

_MEASURES = {"backtracking_rate": "strict_rate", "accuracy": "accuracy"}
"""What the sweeps publish, as it is called here."""

_SINGLE = re.compile(r"(?P<kind>attn|mlp)_(?P<layer>\d{1,4})_only")
_WHOLE_SELECTION = "phase1_full"
"""The study's name of the subset of all selected components."""

_Rows = Sequence[Mapping[str, Any]]


def imported_report(layout: StoreLayout, experiment: Experiment, run_id: str) -> ImportedReport:
    """Contents of an imported run's page."""
    runs = {row["run_id"]: row for row in imported_rows(layout, RUNS)}
    run = runs[run_id]
    return ImportedReport(
        run=run,
        phase1=runs.get(run["phase1_run_id"]),
        figures=tuple(imported_rows(layout, "imported_figures", run_id)),
        faults=tuple(imported_rows(layout, "imported_faults", run_id)),
        unreadable=tuple(imported_rows(layout, "imported_unreadable", run_id)),
        experiment=experiment.name,
        experiment_model=_model_of(experiment),
    )


def write_imported_report(layout: StoreLayout, experiment: Experiment, run_id: str) -> Path:
    """Write the page of an imported run; where it stands.

    Raises:
        StorageError: the page cannot be written.
    """
    path = layout.reports / f"imported_{run_id}.html"
    write_text_durably(path, render_imported_report(imported_report(layout, experiment, run_id)), "page")
    return path


def published_section(opened: OpenExperiment) -> PublishedSection:
    """The published cells that this experiment has too, joined by subset, components and scale."""
    layout, experiment = opened.layout, opened.experiment
    runs = {row["run_id"]: row for row in imported_rows(layout, RUNS)}
    sentences: list[str] = []
    cells: list[PublishedCell] = []
    left_out: list[str] = []
    for run_id, run in runs.items():
        figures = imported_rows(layout, "imported_figures", run_id)
        swept = [row for row in figures if row["file"] in SWEEP_FILES]
        if not swept:
            continue
        linked = runs.get(run["phase1_run_id"])
        model = run["model_id"] or (None if linked is None else linked["model_id"])
        sentences.append(_sentence(run, model, experiment))
        selected = _selected(figures)
        if not selected and run["phase1_run_id"] is not None:
            selected = _selected(imported_rows(layout, "imported_figures", run["phase1_run_id"]))
        faults = {row["fault"] for row in imported_rows(layout, "imported_faults", run_id)}
        found, why = _joined(run_id, swept, opened, selected, "sweep_baseline_accuracy" in faults)
        cells += found
        left_out += why
    return PublishedSection(tuple(sentences), tuple(cells), tuple(left_out))


def _joined(
    run_id: str, swept: _Rows, opened: OpenExperiment, selected: frozenset[str], wrong_accuracy: bool
) -> tuple[list[PublishedCell], list[str]]:
    experiment = opened.experiment
    planned = set(experiment.planned_cells())
    baseline = next((cell for cell in experiment.planned_cells() if cell.scale == BASELINE_SCALE), None)
    totals = {(row["file"], row["entry"]): row["published"] for row in swept if row["measure"] == "total"}
    cells: dict[tuple[Cell, str], PublishedCell] = {}
    left_out: dict[str, None] = {}
    # The sweep over subsets first: where the one over scales repeats its cell, that is the same run of the study.
    for row in sorted(swept, key=lambda row: (SWEEP_FILES.index(row["file"]), row["entry"])):
        measure = _MEASURES.get(row["measure"])
        if measure is None or row["published"] is None or row["scale"] is None:
            continue
        if row["layer_subset"] == STUDY_BASELINE:
            cell, reason = baseline, "the plan has no baseline"
        else:
            cell = Cell(row["layer_subset"], row["scale"])
            reason = _differs(row, opened, selected) or (None if cell in planned else "it is not in the plan")
            cell = None if reason else cell
        if cell is None:
            left_out[f"Run {run_id}: {row['entry']} is not beside a measured cell: {reason}."] = None
            continue
        total = totals.get((row["file"], row["entry"]))
        published = PublishedCell(
            run_id=run_id,
            file=row["file"],
            cell=cell,
            measure=measure,
            value=row["published"],
            n=None if total is None else round(total),
            known_fault=wrong_accuracy and measure == "accuracy",
        )
        cells.setdefault((cell, measure), published)
    # The baseline first, as every other cell is read beside it.
    order = {cell: (cell != baseline, place) for place, cell in enumerate(experiment.planned_cells())}
    return sorted(cells.values(), key=lambda published: (order[published.cell], published.measure)), list(left_out)


def _differs(row: Mapping[str, Any], opened: OpenExperiment, selected: frozenset[str]) -> str | None:
    """Why a published subset is not this experiment's of the same name; None where it is.

    The study publishes how many components a subset has. Which ones is known where the name says it, and of the subset
    of all selected ones.
    """
    name = row["layer_subset"]
    if name not in opened.experiment.all_subsets():
        return "this experiment has no subset of that name"
    own = component_names(opened, name)
    if row["n_components"] is None:
        return "how many components it has is not published"
    if row["n_components"] != len(own):
        return f"it has {plural(row['n_components'], 'component')} there and {len(own)} here"
    single = _SINGLE.fullmatch(name)
    there: frozenset[str] = frozenset()
    if single is not None:
        there = frozenset({f"{'attention' if single['kind'] == 'attn' else 'mlp'}.{int(single['layer'])}"})
    elif name == _WHOLE_SELECTION:
        there = selected
    if there and there != frozenset(own):
        return f"it has the components {', '.join(sorted(there))} there and {', '.join(sorted(own))} here"
    return None


def _selected(figures: _Rows) -> frozenset[str]:
    return frozenset(row["entry"] for row in figures if row["file"] == SELECTED_LAYERS_FILE)


def _sentence(run: Mapping[str, Any], model: str | None, experiment: Experiment) -> str:
    own = _model_of(experiment)
    what = f"Run {run['run_id']}, imported from {run['folder']}"
    if model is None:
        what += ", which does not state its model"
    elif model != own:
        what += f", of {model}, which is not the model of this experiment ({own}): agreement is not to be expected"
    return (
        f"{what}. Its page is imported_{run['run_id']}.html, beside this one. Subsets are matched by name and by what "
        "is published of their components."
    )


def _model_of(experiment: Experiment) -> str:
    return experiment.model.hub_id or str(experiment.model.path)
