"""Phase 1's results on prompt variants and conditions: what each is computed from, computing it, and what is stored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from backtracking_assets.analysis.backtracking_accuracy import BACKTRACKING_VERSION, backtracking_against_accuracy
from backtracking_assets.analysis.comparisons import compare_cells
from backtracking_assets.analysis.condition_comparison import (
    CONDITIONS_VERSION,
    ConditionRows,
    Role,
    compare_conditions,
)
from backtracking_assets.analysis.formatting import FORMATTING_VERSION, compare_variants
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import (
    StoredCell,
    current_baseline,
    current_cells,
    measured_cells,
    metrics_of,
)
from backtracking_assets.assets.stored_variants import StoredVariant, current_variants, variants_of
from backtracking_assets.conditions import digest
from backtracking_assets.errors import StorageError
from backtracking_assets.experiment import Experiment
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.replacing import replace_table


@dataclass(frozen=True)
class Result:
    """One of phase 1's results: a table of its own that is computed as a whole."""

    table: str
    inputs: Callable[[OpenExperiment], str | None]
    """Digest of what it would be computed from now; None while that is not there."""
    compute: Callable[[OpenExperiment, str], pa.Table]
    """The table, given the run id; raises StorageError where the inputs are not there."""
    stored: Callable[[StoreLayout], pa.Table]


def store_result(result: Result, opened: OpenExperiment, run_id: str) -> pa.Table:
    """Compute a result and replace what is stored of it; the table.

    Raises:
        BacktrackingError: its inputs are not there or are worthless; nothing was stored then.
    """
    table = result.compute(opened, run_id)
    replace_table(opened.layout, result.table, table)
    return table


def current_rows(result: Result, opened: OpenExperiment) -> pa.Table | None:
    """What is stored of a result; None where it is missing or computed from something else than there is now."""
    if opened.experiment.phase1 is None or (wanted := result.inputs(opened)) is None:
        return None
    table = result.stored(opened.layout)
    return table if set(table["inputs_digest"].to_pylist()) == {wanted} else None


def result_version(result: Result, opened: OpenExperiment) -> str | None:
    """Digest of what a stored result was computed from; None where it is missing or outdated."""
    return None if current_rows(result, opened) is None else result.inputs(opened)


def is_done(result: Result, opened: OpenExperiment) -> bool:
    """Whether there is nothing to do for a result: it is current, or not asked for."""
    return opened.experiment.phase1 is None or current_rows(result, opened) is not None


def formatting_is_done(opened: OpenExperiment) -> bool:
    """Whether `formatting_sweep` shows the variants as they are, or is not asked for."""
    return is_done(FORMATTING_SWEEP, opened)


def conditions_are_done(opened: OpenExperiment) -> bool:
    """Whether `compare_conditions` shows the cells as they are, missing ones among them, or is not asked for."""
    return is_done(COMPARE_CONDITIONS, opened)


def metrics_v2_is_done(opened: OpenExperiment) -> bool:
    """Whether `metrics_v2` shows the variants as they are, or is not asked for."""
    return is_done(METRICS_V2, opened)


@dataclass(frozen=True)
class ComparedCells:
    """The cells that phase 1 compares: those that are there, and the names of those that are not."""

    present: tuple[tuple[StoredCell, Role], ...]
    missing: tuple[str, ...]
    n_planned: int
    """Beside the baseline."""


def compared_cells(opened: OpenExperiment) -> ComparedCells:
    """Baseline, targeted subset and random controls, as far as they are current, measured and pass their checks."""
    baseline, asked = current_baseline(opened), opened.experiment.compared_cells()
    wanted = [cell for cell in asked if cell.scale != BASELINE_SCALE]
    measured = measured_cells(opened)
    there = {stored.cell: stored for stored in current_cells(opened, wanted) if stored.cell in measured}
    present: list[tuple[StoredCell, Role]] = []
    missing: list[str] = []
    if baseline is not None and baseline.cell in measured:
        present.append((baseline, "baseline"))
    else:
        missing.append("the baseline, any subset at 1")
    for cell in wanted:
        if cell in there:
            present.append((there[cell], role_of(opened.experiment, cell)))
        else:
            missing.append(str(cell))
    return ComparedCells(tuple(present), tuple(missing), len(wanted))


def role_of(experiment: Experiment, cell: Cell) -> Role:
    """The part of a scaled cell in the comparison."""
    return "targeted" if experiment.control_of(cell.layer_subset) is None else "random"


def required_variants(opened: OpenExperiment) -> dict[str, StoredVariant]:
    """Every prompt variant by name, the sweep's own first.

    Raises:
        ExperimentError: there is no phase 1.
        StorageError: some are not there, or not current.
    """
    opened.experiment.for_variant(opened.experiment.prompting.variant)  # raises where there is no phase 1
    found = {stored.variant.name: stored for stored in current_variants(opened)}
    missing = [variant.name for variant in variants_of(opened.experiment) if variant.name not in found]
    if missing:
        raise StorageError(
            f"Of phase 1's prompt variants, {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not there as the experiment file asks for now; materialize "
            "variant_generations and what follows from it first."
        )
    return found


def _variants_inputs(version: str) -> Callable[[OpenExperiment], str | None]:
    def inputs(opened: OpenExperiment) -> str | None:
        wanted = variants_of(opened.experiment)
        found = {stored.variant: stored.version() for stored in current_variants(opened)}
        if not wanted or set(wanted) - found.keys():
            return None
        return digest(
            {
                "version": version,
                "variants": [[variant.name, found[variant]] for variant in wanted],
                "statistics": statistics_digest(opened.experiment.statistics),
            }
        )

    return inputs


def _compute_formatting(opened: OpenExperiment, run_id: str) -> pa.Table:
    variants = required_variants(opened)
    first = next(iter(variants.values()))
    return compare_variants(
        {name: stored.rows for name, stored in variants.items()},
        opened.experiment.prompting.variant,
        first.opened.problems,
        problem_set_digest=first.problem_set_digest,
        statistics=opened.experiment.statistics,
        inputs_digest=_inputs_of(FORMATTING_SWEEP, opened),
        run_id=run_id,
    )


def _compute_backtracking(opened: OpenExperiment, run_id: str) -> pa.Table:
    variants = required_variants(opened)
    return backtracking_against_accuracy(
        {name: stored.rows for name, stored in variants.items()},
        problem_set_digest=next(iter(variants.values())).problem_set_digest,
        statistics=opened.experiment.statistics,
        inputs_digest=_inputs_of(METRICS_V2, opened),
        run_id=run_id,
    )


def _conditions_inputs(opened: OpenExperiment) -> str | None:
    if opened.experiment.phase1 is None:
        return None
    cells = compared_cells(opened)
    if not any(role == "baseline" for _, role in cells.present):
        return None
    return digest(
        {
            "version": CONDITIONS_VERSION,
            "cells": [[str(stored.cell), role, stored.metrics_version()] for stored, role in cells.present],
            "missing": list(cells.missing),
        }
    )


def _compute_conditions(opened: OpenExperiment, run_id: str) -> pa.Table:
    opened.experiment.for_variant(opened.experiment.prompting.variant)  # raises where there is no phase 1
    cells = compared_cells(opened)
    baseline = next((stored for stored, role in cells.present if role == "baseline"), None)
    if baseline is None:
        raise StorageError(
            "There is nothing to compare conditions with: no cell at scale 1.0 is there and measured; materialize the "
            "baseline, any subset at scale 1.0, first."
        )
    conditions = [
        ConditionRows(
            stored.cell,
            role,
            metrics_of(opened, stored.cell).to_pylist(),
            [] if role == "baseline" else _comparisons(opened, stored, baseline, run_id),
        )
        for stored, role in cells.present
    ]
    return compare_conditions(
        conditions,
        n_planned=cells.n_planned,
        inputs_digest=_inputs_of(COMPARE_CONDITIONS, opened),
        run_id=run_id,
    )


def _comparisons(opened: OpenExperiment, stored: StoredCell, baseline: StoredCell, run_id: str) -> list[dict[str, Any]]:
    """The stored comparisons of a cell with this baseline, or new ones where the sweep has not compared it yet."""
    statistics = opened.experiment.statistics
    wanted = (
        stored.fingerprint,
        baseline.fingerprint,
        stored.problem_set_digest,
        stored.rules_digest,
        statistics_digest(statistics),
    )
    names = ("fingerprint", "baseline_fingerprint", "problem_set_digest", "rules_digest", "statistics_digest")
    there = [
        row
        for row in queries.comparisons(opened.layout).to_pylist()
        if Cell(row["layer_subset"], row["scale"]) == stored.cell and tuple(row[name] for name in names) == wanted
    ]
    if there:
        return there
    return compare_cells(
        [stored.rows],
        baseline.rows,
        problem_set_digest=stored.problem_set_digest,
        statistics=statistics,
        run_id=run_id,
    ).to_pylist()


def _inputs_of(result: Result, opened: OpenExperiment) -> str:
    inputs = result.inputs(opened)
    if inputs is None:
        raise StorageError(f"What {result.table} is computed from has changed meanwhile; run the same command again.")
    return inputs


FORMATTING_SWEEP = Result(
    "formatting", _variants_inputs(f"formatting {FORMATTING_VERSION}"), _compute_formatting, queries.formatting
)
COMPARE_CONDITIONS = Result(
    "condition_comparison", _conditions_inputs, _compute_conditions, queries.condition_comparison
)
METRICS_V2 = Result(
    "backtracking_accuracy",
    _variants_inputs(f"backtracking {BACKTRACKING_VERSION}"),
    _compute_backtracking,
    queries.backtracking_accuracy,
)

RESULTS = {"formatting_sweep": FORMATTING_SWEEP, "metrics_v2": METRICS_V2, "compare_conditions": COMPARE_CONDITIONS}
"""By the name of the asset."""
