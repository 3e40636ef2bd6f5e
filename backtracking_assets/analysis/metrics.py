"""The measures of one cell, each with its interval."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from backtracking_assets.analysis.answers import equal
from backtracking_assets.analysis.counts import CellRows, applies, counts, joined
from backtracking_assets.analysis.statistics import Estimate, mean, median_time_to_first_event, rate, share
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.measures import MEASURES, Measure
from backtracking_assets.records import METRICS, Cell, Problem, Variant
from backtracking_assets.variant_records import VARIANT_METRICS


def cell_metrics(
    completions: pa.Table,
    detections: pa.Table,
    problems: Mapping[str, Problem],
    *,
    cell: Cell,
    problem_set_digest: str,
    statistics: Statistics,
    run_id: str,
) -> pa.Table:
    """Measure a cell.

    Returns:
        A table with the schema METRICS: one row for every measure of `measures.MEASURES` that applies, in that order.
        Measures that need steps are absent where no steps were read.

    Raises:
        BacktrackingError: completions and detections do not belong together, there are none, or a problem is unknown.
    """
    rows = _metric_rows(CellRows(cell, completions, detections), problems, problem_set_digest, statistics, run_id)
    names = {"layer_subset": cell.layer_subset, "scale": cell.scale}
    return pa.Table.from_pylist([{**names, **row} for row in rows], schema=METRICS)


def variant_metrics(
    rows: CellRows,
    problems: Mapping[str, Problem],
    *,
    problem_set_digest: str,
    statistics: Statistics,
    run_id: str,
) -> pa.Table:
    """Measure a prompt variant, in the same measures as a cell.

    Returns:
        A table with the schema VARIANT_METRICS; see `cell_metrics`.

    Raises:
        BacktrackingError: see `cell_metrics`.
    """
    if not isinstance(rows.cell, Variant):
        raise TypeError(f"{rows.cell} is no prompt variant")
    found = _metric_rows(rows, problems, problem_set_digest, statistics, run_id)
    return pa.Table.from_pylist([{"variant": rows.cell.name, **row} for row in found], schema=VARIANT_METRICS)


def _metric_rows(
    given: CellRows,
    problems: Mapping[str, Problem],
    problem_set_digest: str,
    statistics: Statistics,
    run_id: str,
) -> list[dict[str, Any]]:
    frame = joined(given)
    # Numbers in the order of the problems: names would be sorted anew for each measure.
    clusters = np.unique(frame["problem_id"].to_numpy(), return_inverse=True)[1]
    return [
        {
            "metric": measure.name,
            "fingerprint": frame["fingerprint"].iloc[0],
            "problem_set_digest": problem_set_digest,
            "rules_digest": frame["rules_digest"].iloc[0],
            "statistics_digest": statistics_digest(statistics),
            "estimate": estimate.estimate,
            "low": estimate.low,
            "high": estimate.high,
            "n": estimate.n,
            "n_problems": estimate.n_clusters,
            "method": estimate.method,
            "run_id": run_id,
        }
        for measure in MEASURES.values()
        if applies(measure, [frame])
        for estimate in [_estimate(measure, frame, clusters, problems, statistics)]
    ]


def derangement(names: Sequence[str], seed: int) -> dict[str, str]:
    """Another name for every name, drawn as one cycle through all of them (Sattolo 1986); empty for a single name."""
    if len(names) < 2:
        return {}
    source = random.Random(seed)
    order = sorted(names)
    for last in range(len(order) - 1, 0, -1):
        other = int(source.random() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return dict(zip(order, order[1:] + order[:1], strict=True))


def _estimate(
    measure: Measure,
    frame: pd.DataFrame,
    clusters: npt.NDArray[np.intp],
    problems: Mapping[str, Problem],
    statistics: Statistics,
) -> Estimate:
    confidence = statistics.confidence
    if measure.name == "accuracy_shuffled":
        other = derangement(frame["problem_id"].unique().tolist(), statistics.seed)
        hits = _hits_of_shuffled_answers(frame, problems, other)
        # A single problem has no other one, so there is nothing to measure.
        return share(hits, np.full(len(frame), 1 if other else 0), clusters, confidence=confidence)
    if measure.name == "median_first_event_token":
        first = frame["first_strict_token"]
        observed = first.notna().to_numpy()
        # A token's time is its place counted from 1, so that no event is at time 0.
        times = np.where(observed, first.to_numpy(dtype=np.float64, na_value=np.nan) + 1, frame["n_tokens"])
        return median_time_to_first_event(
            times, observed, clusters, confidence=confidence, resamples=statistics.resamples, seed=statistics.seed
        )
    numerators, denominators = counts(measure, frame)
    if measure.unit == "share":
        return share(numerators, denominators, clusters, confidence=confidence)
    if measure.unit == "tokens":
        return mean(numerators, clusters, confidence=confidence)
    return rate(numerators, denominators, clusters, per=1000, confidence=confidence)


def _hits_of_shuffled_answers(
    frame: pd.DataFrame, problems: Mapping[str, Problem], other: Mapping[str, str]
) -> list[bool]:
    """Whether each row's answer equals the reference answer of the problem that its own is exchanged for."""
    unknown = sorted(set(frame["problem_id"]) - problems.keys())
    if unknown:
        raise BacktrackingError(
            f"Completions belong to {len(unknown)} problems that are not in the problem set, "
            f"the first is {unknown[0]!r}; measure them with the problem file that they were generated from."
        )
    return [
        verdict != "no_answer" and problem_id in other and equal(answer, problems[other[problem_id]].answer)
        for problem_id, verdict, answer in zip(frame["problem_id"], frame["verdict"], frame["answer"], strict=True)
    ]
