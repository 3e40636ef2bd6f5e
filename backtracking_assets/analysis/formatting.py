"""What the form of the prompt does: every measure of each prompt variant, and its difference to the sweep's own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from backtracking_assets.analysis.comparisons import compare_cells
from backtracking_assets.analysis.counts import CellRows
from backtracking_assets.analysis.metrics import variant_metrics
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.phase1_records import FORMATTING
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell, Problem, Variant

FORMATTING_VERSION = "1"
"""Raised whenever a change of this module changes what is compared, or how."""

NO_DIFFERENCE: dict[str, Any] = {
    "difference": None,
    "difference_low": None,
    "difference_high": None,
    "p_value": None,
    "p_holm": None,
    "n_pairs": None,
    "difference_method": None,
}


@dataclass(frozen=True)
class _Variant(Cell):
    """Stands for a prompt variant where cells are compared: its name in place of a subset's."""

    def __str__(self) -> str:
        return f"prompt variant {self.layer_subset}"


def compare_variants(
    variants: Mapping[str, CellRows],
    reference: str,
    problems: Mapping[str, Problem],
    *,
    problem_set_digest: str,
    statistics: Statistics,
    inputs_digest: str,
    run_id: str,
) -> pa.Table:
    """Measure every variant and compare it with the reference: same problems, samples and noise, paired.

    Returns:
        A table with the schema FORMATTING: variants in the order given, measures in the order of `measures.MEASURES`;
        ``p_holm`` is corrected over the variants.

    Raises:
        BacktrackingError: the reference is not among the variants, their keys or rules differ, or no measure differs
            between variants of different text.
    """
    if reference not in variants:
        raise BacktrackingError(f"The sweep's prompt variant {reference} is not among those to compare.")
    named = {name: replace(rows, cell=_Variant(name, BASELINE_SCALE)) for name, rows in variants.items()}
    differences = compare_cells(
        [rows for name, rows in named.items() if name != reference],
        named[reference],
        problem_set_digest=problem_set_digest,
        statistics=statistics,
        run_id=run_id,
        family_size=len(named) - 1,
    )
    compared = {(row["layer_subset"], row["metric"]): difference_columns(row) for row in differences.to_pylist()}
    rows: list[dict[str, Any]] = []
    for name, own in named.items():
        measured = variant_metrics(
            replace(own, cell=Variant(name)),
            problems,
            problem_set_digest=problem_set_digest,
            statistics=statistics,
            run_id=run_id,
        )
        rows += [
            {
                **row,
                **compared.get((name, row["metric"]), NO_DIFFERENCE),
                "variant": name,
                "reference_variant": reference,
                "n_comparisons": len(named) - 1,
                "inputs_digest": inputs_digest,
            }
            for row in measured.to_pylist()
        ]
    _refuse_constant(rows)
    return pa.Table.from_pylist(rows, schema=FORMATTING)


def difference_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a difference from a row of `records.COMPARISONS`."""
    return {
        "difference": row["difference"],
        "difference_low": row["low"],
        "difference_high": row["high"],
        "p_value": row["p_value"],
        "p_holm": row["p_holm"],
        "n_pairs": row["n_pairs"],
        "difference_method": row["method"],
    }


def _refuse_constant(rows: list[dict[str, Any]]) -> None:
    """Refuse variants of different text whose every measure is the same: their text did not reach the model."""
    by_variant: dict[str, list[tuple[str, float | None]]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], []).append((row["metric"], row["estimate"]))
    values = list(by_variant.values())
    n_conditions = len({row["fingerprint"] for row in rows})
    if n_conditions > 1 and all(own == values[0] for own in values):
        raise BacktrackingError(
            f"Every measure is the same in all of {', '.join(by_variant)}; a constant measures nothing, and nothing "
            "was stored."
        )
