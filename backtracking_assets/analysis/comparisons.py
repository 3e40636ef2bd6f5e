"""Differences of cells to the baseline, paired by problem and sample, and corrected over the comparisons made."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from backtracking_assets.analysis.counted_rows import ONES, CountedRows, columns_of, from_frame, in_order_of
from backtracking_assets.analysis.counts import CellRows, joined
from backtracking_assets.analysis.paired_differences import Pair, paired_differences
from backtracking_assets.analysis.resampling import Column
from backtracking_assets.analysis.shared_noise import variance_ratios
from backtracking_assets.analysis.statistics import holm
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.measures import MEASURES, Measure
from backtracking_assets.records import COMPARISONS, Cell, Subject

_PAIR = ["problem_id", "sample_id"]


def compare_cells(
    cells: Iterable[CellRows],
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
    reference = from_frame(joined(baseline))
    draws = {"resamples": statistics.resamples, "seed": statistics.seed}
    baseline_columns = reference.columns(_names_of(_measures(reference)), **draws)
    of_statistics, rows = statistics_digest(statistics), list[dict[str, Any]]()
    for cell_rows in cells:
        counted = in_order_of(reference, cell_rows)
        if counted is None:
            frame = joined(cell_rows)
            if set(frame["fingerprint"]) == {reference.fingerprint}:
                continue
            _refuse_unpaired(cell_rows.cell, frame, joined(baseline))
            counted = from_frame(frame)
        cell = cell_rows.cell
        if counted.fingerprint == reference.fingerprint:
            continue
        if not isinstance(cell, Cell):
            raise TypeError(f"only cells are compared with the baseline here, not {cell}")
        known = {
            "layer_subset": cell.layer_subset,
            "scale": cell.scale,
            "fingerprint": counted.fingerprint,
            "baseline_fingerprint": reference.fingerprint,
            "problem_set_digest": problem_set_digest,
            "rules_digest": counted.rules_digest,
            "statistics_digest": of_statistics,
            "run_id": run_id,
        }
        measures = [measure for measure in _measures(reference) if counted.has(measure)]
        differences = _differences(measures, counted, reference, baseline_columns, statistics)
        rows += [
            {**known, "metric": measure.name, **difference}
            for measure, difference in zip(measures, differences, strict=True)
        ]
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(row["metric"], []).append(row)
    for family in families.values():
        missing = max((family_size or 0) - len(family), 0)
        corrected_values = holm([row["p_value"] for row in family] + [1.0] * missing)
        for row, corrected in zip(family, corrected_values, strict=False):
            row["p_holm"] = corrected
            row["n_comparisons"] = len(family) + missing
    return pa.Table.from_pylist(rows, schema=COMPARISONS)


def _measures(counted: CountedRows) -> list[Measure]:
    return [measure for measure in MEASURES.values() if measure.compared and counted.has(measure)]


def _names_of(measures: Sequence[Measure]) -> list[str]:
    return list(dict.fromkeys(name for measure in measures for name in columns_of(measure)))


def _differences(
    measures: Sequence[Measure],
    counted: CountedRows,
    reference: CountedRows,
    baseline: Mapping[str, Column],
    statistics: Statistics,
) -> list[dict[str, Any]]:
    # Both have the same keys in the same order: row by row they are pairs.
    draws = {"resamples": statistics.resamples, "seed": statistics.seed}
    names = _names_of(measures)
    own = counted.columns([name for name in names if name != ONES], **draws) | {ONES: baseline[ONES]}
    named = [columns_of(measure) for measure in measures]
    pairs = [
        Pair(
            own[top],
            own[bottom],
            baseline[top],
            baseline[bottom],
            n_pairs=len(counted.problem),
            is_share=measure.unit == "share",
            per=1000 if measure.unit == "events per 1,000 tokens" else 1,
        )
        for measure, (top, bottom) in zip(measures, named, strict=True)
    ]
    of_rows = [(*map(counted.of_rows, pair), *map(reference.of_rows, pair)) for pair in named]
    noises = variance_ratios(of_rows, counted.problem, len(counted.problems), confidence=statistics.confidence, **draws)
    return [
        {
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
        for result, noise in zip(
            paired_differences(pairs, confidence=statistics.confidence, **draws), noises, strict=True
        )
    ]


def _refuse_unpaired(cell: Subject, frame: pd.DataFrame, reference: pd.DataFrame) -> None:
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
