"""Filling the reports from the store."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pandas as pd
import pyarrow as pa

from backtracking_assets.analysis.comparisons import compare_cells
from backtracking_assets.assets.class_contents import class_rules
from backtracking_assets.assets.continuation_contents import continuation_report
from backtracking_assets.assets.equal_rate_contents import equal_rate_section
from backtracking_assets.assets.imported_contents import published_section
from backtracking_assets.assets.open_experiment import OpenExperiment, component_names
from backtracking_assets.assets.provenance import provenance, provenance_of_chunks, with_sources
from backtracking_assets.assets.status import CellStatus, planned_status
from backtracking_assets.assets.stored_cells import (
    StoredCell,
    checks_of,
    checks_of_cell,
    current_baseline,
    current_cells,
    detected_cell,
    metrics_of,
)
from backtracking_assets.assets.stored_completions import StoredCompletions
from backtracking_assets.assets.stored_variants import Stored, StoredVariant
from backtracking_assets.assets.sweep_status import cells_digest
from backtracking_assets.experiment import Experiment, scale_key
from backtracking_assets.experiment_file import experiment_names
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell, CompletionClass
from backtracking_assets.reporting.contents import (
    CellReport,
    Completion,
    Event,
    Example,
    PageLink,
    PlannedCell,
    SweepReport,
    study_of,
)
from backtracking_assets.reporting.measured import index_sweep
from backtracking_assets.reporting.positive_control_verdict import QUESTION as CONTROL_QUESTION
from backtracking_assets.reporting.shown_subsets import shown_subsets
from backtracking_assets.storage import queries
from backtracking_assets.storage.database import reading
from backtracking_assets.storage.sweep_queries import Wanted, generated

_EXAMPLES_A_CELL = 3
_SHOWN_OF_COMPLETIONS = ("text", "finish_reason")
_SHOWN_OF_DETECTIONS = (
    "has_strict",
    "event_starts",
    "event_ends",
    "event_kinds",
    "event_classes",
    "verdict",
    "degeneration_rule",
    "completion_class",
)


def primary_measure(experiment: Experiment) -> str | None:
    """Wait after a wrong step where steps can be checked exactly; None where the strict rate must serve."""
    return "wait_after_wrong_step" if experiment.detection.steps else None


def cell_report(opened: OpenExperiment, cell: Cell, run_id: str) -> CellReport:
    """Contents of a cell's page.

    Raises:
        StorageError: the cell's completions or detections are not there, or not current.
    """
    experiment = opened.experiment
    is_baseline, layout = cell.scale == BASELINE_SCALE, opened.layout
    with reading(layout):
        stored, at_one = detected_cell(opened, cell), current_baseline(opened)
        baseline = None if is_baseline else at_one
        stored.load()
        if baseline is not None:
            baseline.load()
        metrics, checks = metrics_of(opened, cell), checks_of_cell(opened, cell)
        baseline_metrics = None if baseline is None else metrics_of(opened, baseline.cell)
        chunk_sizes = queries.chunk_sizes(layout, fingerprint=stored.fingerprint)
    scale = f"--scale {scale_key(cell.scale)}"
    comparisons = None
    if baseline is not None and baseline.fingerprint != stored.fingerprint:
        table = compare_cells(
            [stored.rows],
            baseline.rows,
            problem_set_digest=stored.problem_set_digest,
            statistics=experiment.statistics,
            run_id=run_id,
        )
        comparisons = table.to_pandas()
        # Corrected p-values belong to the whole plan; here is one cell of it.
        comparisons["p_holm"] = None
    own, other = _by_key(stored), _by_key_of_other(stored, baseline)
    shown = _examples(stored, baseline, own, other)
    return CellReport(
        study=study_of(experiment),
        cell=cell,
        components=tuple(component_names(opened, cell.layer_subset)),
        control_of=experiment.control_of(cell.layer_subset),
        is_baseline=is_baseline,
        fingerprint=stored.fingerprint,
        condition=opened.condition(cell).model_dump(mode="json"),
        problem_set_digest=stored.problem_set_digest,
        version=stored.page_version(at_one),
        primary_measure=primary_measure(experiment),
        metrics=metrics.to_pandas(),
        baseline_metrics=None if baseline_metrics is None else baseline_metrics.to_pandas(),
        comparisons=comparisons,
        checks=checks,
        examples=shown,
        class_examples=_class_examples(stored, own, other, shown),
        provenance=provenance(
            experiment,
            stored.completions,
            run_id,
            chunk_sizes,
            f"--layer-subset {cell.layer_subset} {scale}",
        ),
    )


def sweep_report(opened: OpenExperiment, run_id: str) -> SweepReport:
    """Contents of the sweep's page, from the cells that are current; what is missing is named as missing."""
    experiment, report = opened.experiment, sweep_values(opened, run_id)
    stored = current_cells(opened, [planned.cell for planned in report.cells if planned.status == "done"])
    baseline = current_baseline(opened)
    return replace(
        report,
        examples=_sweep_examples(shown_subsets(index_sweep(report)), stored, baseline),
        class_rules=class_rules(experiment, baseline),
        continuation=continuation_report(opened),
        published=published_section(opened),
        equal_rate=equal_rate_section(experiment, stored, baseline, primary_measure(experiment)),
        positive_control=_control_link(experiment),
    )


def sweep_values(opened: OpenExperiment, run_id: str) -> SweepReport:
    """What figures of the whole sweep are drawn from: the page's contents without what is read in completions."""
    experiment = opened.experiment
    checks = checks_of(opened)
    planned = [_planned(opened, status, checks.get(status.cell, ())) for status in planned_status(opened)]
    done = {row.cell for row in planned if row.status == "done"}
    stored = current_cells(opened, done)
    return SweepReport(
        study=study_of(experiment),
        cells=tuple(planned),
        primary_measure=primary_measure(experiment),
        metrics=_only(queries.metrics(opened.layout).to_pandas(), done),
        comparisons=_only(queries.comparisons(opened.layout).to_pandas(), done),
        examples=(),
        cells_digest=cells_digest(stored),
        provenance=with_sources(
            provenance_of_chunks(experiment, _made_in(opened, stored), run_id, queries.chunk_sizes(opened.layout)),
            opened,
            {str(cell.cell): cell.fingerprint for cell in stored},
        ),
    )


def _control_link(experiment: Experiment) -> PageLink | None:
    if experiment.positive_control is None:
        return None
    name = experiment.name if experiment.name in experiment_names() else str(experiment.source)
    return PageLink("positive_control.html", CONTROL_QUESTION, f"backtracking sweep {name} --job positive_control")


_ByKey = dict[tuple[str, int], tuple[dict, dict]]
"""(completion, detection) by (problem id, sample id)."""


def examples(stored: Stored, baseline: Stored | None) -> tuple[Example, ...]:
    """A few completions beside the baseline's: first those in which one backtracks and the other does not."""
    return _examples(stored, baseline, _by_key(stored), _by_key_of_other(stored, baseline))


def _examples(stored: Stored, baseline: Stored | None, own: _ByKey, other: _ByKey) -> tuple[Example, ...]:
    def differs(key: tuple[str, int]) -> bool:
        return key in other and own[key][1]["has_strict"] != other[key][1]["has_strict"]

    def backtracks(key: tuple[str, int]) -> bool:
        return own[key][1]["has_strict"]

    order = {problem_id: rank for rank, problem_id in enumerate(stored.opened.problems)}
    ranked = sorted(own, key=lambda key: (not differs(key), not backtracks(key), key[1], order.get(key[0], len(order))))
    if baseline is None:
        is_baseline = not isinstance(stored, StoredVariant) and stored.cell.scale == BASELINE_SCALE
        absent = "This is the baseline." if is_baseline else "The baseline is not there yet."
    else:
        absent = "The baseline has no completion of this problem and sample."
    return tuple(_example(stored, key, own[key], other.get(key), absent) for key in ranked[:_EXAMPLES_A_CELL])


def _class_examples(stored: Stored, own: _ByKey, other: _ByKey, shown: Sequence[Example]) -> tuple[Example, ...]:
    """One completion of each class that is not among the examples shown, beside the baseline's."""
    missing = list(get_args(CompletionClass))
    for example in shown:
        if example.completion.completion_class in missing:
            missing.remove(example.completion.completion_class)
    order = {problem_id: rank for rank, problem_id in enumerate(stored.opened.problems)}
    found: list[Example] = []
    for name in missing:
        keys = [key for key, (_, detection) in own.items() if detection["completion_class"] == name]
        for key in sorted(keys, key=lambda key: (key[1], order.get(key[0], len(order))))[:1]:
            found.append(_example(stored, key, own[key], other.get(key), ""))
    return tuple(found)


def _by_key_of_other(stored: Stored, baseline: Stored | None) -> _ByKey:
    """Of the baseline; nothing where it is not there, or has the same completions."""
    return _by_key(baseline) if baseline is not None and baseline.fingerprint != stored.fingerprint else {}


def _by_key(stored: Stored) -> _ByKey:
    detections = _rows_by_key(stored.detections, _SHOWN_OF_DETECTIONS)
    completions = _rows_by_key(stored.completions, _SHOWN_OF_COMPLETIONS)
    return {key: (completions[key], detections[key]) for key in completions}


def _rows_by_key(table: pa.Table, columns: Sequence[str]) -> dict[tuple[str, int], dict]:
    rows = table.select(["problem_id", "sample_id", *columns]).to_pylist()
    return {(row["problem_id"], row["sample_id"]): row for row in rows}


def _example(
    stored: Stored, key: tuple[str, int], own: tuple[dict, dict], other: tuple[dict, dict] | None, absent: str
) -> Example:
    problem = stored.opened.problems[key[0]]
    return Example(
        cell=stored.subject,
        problem_id=problem.problem_id,
        sample_id=key[1],
        question=problem.question,
        reference_answer=problem.answer,
        completion=_completion(*own),
        baseline=None if other is None else _completion(*other),
        no_baseline_because=absent if other is None else "",
    )


def _completion(completion: dict, detection: dict) -> Completion:
    return Completion(
        text=completion["text"],
        events=tuple(
            Event(start, end, kind, event_class)
            for start, end, kind, event_class in zip(
                detection["event_starts"],
                detection["event_ends"],
                detection["event_kinds"],
                detection["event_classes"],
                strict=True,
            )
        ),
        verdict=detection["verdict"],
        finish_reason=completion["finish_reason"],
        degeneration_rule=detection["degeneration_rule"],
        completion_class=detection["completion_class"],
    )


def _sweep_examples(
    shown: Sequence[str], stored: Sequence[StoredCell], baseline: StoredCell | None
) -> tuple[Example, ...]:
    """One example of each targeted subset that figures show, at its lowest scale that is there."""
    lowest: dict[str, StoredCell] = {}
    for cell in sorted(stored, key=lambda found: found.cell.scale):
        if cell.cell.layer_subset in shown and cell.cell.scale != BASELINE_SCALE:
            lowest.setdefault(cell.cell.layer_subset, cell)
    chosen = [lowest[name] for name in shown if name in lowest]
    return tuple(example for cell in chosen for example in examples(cell, baseline)[:1])


def _planned(opened: OpenExperiment, status: CellStatus, checks: tuple) -> PlannedCell:
    return PlannedCell(
        cell=status.cell,
        components=tuple(component_names(opened, status.cell.layer_subset)),
        control_of=opened.experiment.control_of(status.cell.layer_subset),
        # A stale cell's figures answer another question than the experiment file asks: the report counts it as missing.
        status="missing" if status.state in ("stale", "waiting") else status.state,
        n_completions=0 if status.state in ("missing", "stale", "waiting") else status.n_completions,
        checks=checks if status.state == "done" else (),
    )


def _made_in(opened: OpenExperiment, stored: Sequence[StoredCell]) -> pa.Table:
    wanted = Wanted(opened.problem_set_digest, opened.experiment.problems.samples)
    return generated(opened.layout, [cell.fingerprint for cell in stored], wanted)


def all_completions(stored: Sequence[StoredCompletions]) -> pa.Table:
    """Keys, devices and times of all completions behind a page, each condition once: the last one that is given."""
    columns = ["fingerprint", "chunk_id", "chunk_seconds", "n_tokens", "device", "run_id", "generated_at", "batch_rows"]
    by_condition = {cell.fingerprint: cell for cell in stored}
    tables = [cell.completions.select(columns) for cell in by_condition.values()]
    if tables:
        return pa.concat_tables(tables)
    from backtracking_assets.records import COMPLETIONS

    return COMPLETIONS.empty_table().select(columns)


def _only(frame: pd.DataFrame, cells: set[Cell]) -> pd.DataFrame:
    wanted = [Cell(*pair) in cells for pair in zip(frame["layer_subset"], frame["scale"], strict=True)]
    return frame.loc[wanted].reset_index(drop=True)
