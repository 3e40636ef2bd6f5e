"""Differences of cells to the baseline, paired by problem and sample, and corrected over the comparisons made."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from backtracking_assets.analysis.counts import CellRows, applies, counts, joined
from backtracking_assets.analysis.shared_noise import variance_ratio
from backtracking_assets.analysis.statistics import holm, paired_difference
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.measures import MEASURES, Measure
from backtracking_assets.records import COMPARISONS, Cell

_PAIR = ["problem_id", "sample_id"]


def compare_cells(
    cells: Sequence[CellRows],
    baseline: CellRows,
    *,
    problem_set_digest: str,
    statistics: Statistics,
    run_id: str,
    family_size: int | None = None,
) -> pa.Table:
    """Compare cells with the baseline in every measure that is compared.

    Cells of the baseline's own fingerprint are left out. ``p_holm`` is corrected over all rows of the same measure in
    this call, so the cells of one family belong into one call. Where the family has more cells than are there,
    ``family_size`` counts the missing ones as p = 1: a corrected p-value can only fall as they come in.

    Returns:
        A table with the schema COMPARISONS: cells in the order given, measures in the order of `measures.MEASURES`.
        A measure that needs steps is absent for a cell without them.

    Raises:
        BacktrackingError: a cell lacks completions of the baseline or has others, or was read by other rules.
    """
    reference = joined(baseline)
    rows: list[dict[str, Any]] = []
    for cell_rows in cells:
        frame = joined(cell_rows)
        if set(frame["fingerprint"]) == set(reference["fingerprint"]):
            continue
        cell = cell_rows.cell
        if not isinstance(cell, Cell):
            raise TypeError(f"only cells are compared with the baseline here, not {cell}")
        _refuse_unpaired(cell, frame, reference)
        rows += [
            {
                "layer_subset": cell.layer_subset,
                "scale": cell.scale,
                "metric": measure.name,
                "fingerprint": frame["fingerprint"].iloc[0],
                "baseline_fingerprint": reference["fingerprint"].iloc[0],
                "problem_set_digest": problem_set_digest,
                "rules_digest": frame["rules_digest"].iloc[0],
                "statistics_digest": statistics_digest(statistics),
                "run_id": run_id,
                **_difference(measure, frame, reference, statistics),
            }
            for measure in MEASURES.values()
            if measure.compared and applies(measure, [frame, reference])
        ]
    for name in MEASURES:
        family = [row for row in rows if row["metric"] == name]
        missing = max((family_size or 0) - len(family), 0)
        corrected_values = holm([row["p_value"] for row in family] + [1.0] * missing)
        for row, corrected in zip(family, corrected_values, strict=False):
            row["p_holm"] = corrected
            row["n_comparisons"] = len(family) + missing
    return pa.Table.from_pylist(rows, schema=COMPARISONS)


def _difference(
    measure: Measure, frame: pd.DataFrame, reference: pd.DataFrame, statistics: Statistics
) -> dict[str, Any]:
    # Both frames are in the order of their keys, which are the same: row by row they are pairs.
    paired = (*counts(measure, frame), *counts(measure, reference), frame["problem_id"].to_numpy())
    confidence, resamples, seed = statistics.confidence, statistics.resamples, statistics.seed
    noise = variance_ratio(*paired, confidence=confidence, resamples=resamples, seed=seed)
    result = paired_difference(
        *paired,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        is_share=measure.unit == "share",
        per=1000 if measure.unit == "events per 1,000 tokens" else 1,
    )
    return {
        "difference": result.difference,
        "low": result.low,
        "high": result.high,
        "p_value": result.p_value,
        "variance_ratio": noise.ratio,
        "variance_ratio_low": noise.low,
        "variance_ratio_high": noise.high,
        "n_pairs": result.n_pairs,
        "n_problems": result.n_clusters,
        "method": result.method,
    }


def _refuse_unpaired(cell: Cell, frame: pd.DataFrame, reference: pd.DataFrame) -> None:
    unpaired = frame[_PAIR].merge(reference[_PAIR], how="outer", indicator=True).query("_merge != 'both'")
    if len(unpaired):
        first = unpaired.iloc[0]
        missing = "the baseline" if first["_merge"] == "left_only" else str(cell)
        raise BacktrackingError(
            f"{cell} and the baseline differ in {len(unpaired)} completions, the first is sample "
            f"{first['sample_id']} of problem {first['problem_id']!r}, which {missing} lacks; generate it."
        )
    if set(frame["rules_digest"]) != set(reference["rules_digest"]):
        raise BacktrackingError(f"{cell} was read by other rules than the baseline; detect both anew.")
