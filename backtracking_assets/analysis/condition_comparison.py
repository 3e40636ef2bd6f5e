"""The baseline, a targeted subset and its random controls side by side, from what the store holds of their cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from backtracking_assets.analysis.formatting import NO_DIFFERENCE, difference_columns
from backtracking_assets.analysis.statistics import holm
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.phase1_records import CONDITION_COMPARISON
from backtracking_assets.records import Cell

CONDITIONS_VERSION = "1"
"""Raised whenever a change of this module changes what is compared, or how."""

Role = Literal["baseline", "targeted", "random"]


@dataclass(frozen=True)
class ConditionRows:
    """One condition: its cell, its part in the comparison, and its rows in the store."""

    cell: Cell
    role: Role
    metrics: Sequence[Mapping[str, Any]]
    """Rows of `records.METRICS`."""
    comparisons: Sequence[Mapping[str, Any]]
    """Rows of `records.COMPARISONS`; none for the baseline."""


def compare_conditions(
    conditions: Sequence[ConditionRows], *, n_planned: int, inputs_digest: str, run_id: str
) -> pa.Table:
    """Put conditions side by side, joined by cell and measure.

    ``p_holm`` is corrected over the conditions of this table and not over the sweep's plan. Of the ``n_planned`` that
    belong beside the baseline, missing ones count as p = 1: a corrected p-value can only fall as they come in.

    Returns:
        A table with the schema CONDITION_COMPARISON, conditions and measures in the order given.

    Raises:
        BacktrackingError: there is not exactly one baseline, a condition has no measures or two rows of one, was
            compared with something else than the baseline, or all conditions have the same value in every measure.
    """
    baselines = [condition for condition in conditions if condition.role == "baseline"]
    if len(baselines) != 1:
        raise BacktrackingError(f"Conditions are compared with one baseline; {len(baselines)} were given.")
    rows: list[dict[str, Any]] = []
    for condition in conditions:
        own = _by_metric(condition, condition.metrics)
        compared = _by_metric(condition, condition.comparisons)
        if not own:
            raise BacktrackingError(f"{condition.cell} has no rates; materialize its metrics first.")
        _refuse_other_baseline(condition, baselines[0])
        rows += [
            {
                **row,
                **(difference_columns(compared[metric]) if metric in compared else NO_DIFFERENCE),
                "role": condition.role,
                "n_comparisons": n_planned,
                "inputs_digest": inputs_digest,
                "run_id": run_id,
            }
            for metric, row in own.items()
        ]
    for metric in dict.fromkeys(row["metric"] for row in rows):
        family = [row for row in rows if row["metric"] == metric and row["role"] != "baseline"]
        missing = max(n_planned - len(family), 0)
        corrected_values = holm([row["p_value"] for row in family] + [1.0] * missing)
        for row, corrected in zip(family, corrected_values, strict=False):
            row["p_holm"] = corrected
    _refuse_constant(conditions, rows)
    return pa.Table.from_pylist(rows, schema=CONDITION_COMPARISON)


def _by_metric(condition: ConditionRows, rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if Cell(row["layer_subset"], row["scale"]) != condition.cell:
            raise BacktrackingError(
                f"A row of {row['layer_subset']} at {row['scale']:g} was given for {condition.cell}."
            )
        if row["metric"] in found:
            raise BacktrackingError(f"{condition.cell} has two rows of {row['metric']}; measure the cell anew.")
        found[row["metric"]] = row
    return found


def _refuse_other_baseline(condition: ConditionRows, baseline: ConditionRows) -> None:
    wanted = {row["fingerprint"] for row in baseline.metrics}
    others = {row["baseline_fingerprint"] for row in condition.comparisons} - wanted
    if others:
        raise BacktrackingError(f"{condition.cell} was compared with another baseline; compare the plan anew.")


def _refuse_constant(conditions: Sequence[ConditionRows], rows: Sequence[Mapping[str, Any]]) -> None:
    values: dict[Cell, list[tuple[str, float | None]]] = {}
    for row in rows:
        values.setdefault(Cell(row["layer_subset"], row["scale"]), []).append((row["metric"], row["estimate"]))
    listed = list(values.values())
    if len(listed) > 1 and all(own == listed[0] for own in listed):
        names = ", ".join(str(condition.cell) for condition in conditions)
        raise BacktrackingError(
            f"Every measure is the same in all of {names}; a constant measures nothing, and nothing was stored."
        )
