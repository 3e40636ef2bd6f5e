"""The continuation ablation in figures: each intervention beside the unscaled run, paired by position."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from backtracking_assets.analysis.statistics import Difference, Estimate, holm, mean, paired_difference, share
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.measures import CONTINUATION_MEASURES, ContinuationMeasure
from backtracking_assets.records import CONTINUATION_SUMMARIES, UNSCALED, Cell

_KEY = ["problem_id", "sample_id"]
_MEASURED = ("onset_probability", "trigger_probability", "entropy")
_COUNTED = {"comes_again": "n_again", "comes_within": "n_within"}
_PLACES = ("nowhere", "one_position", "from_there_on")
_Floats = npt.NDArray[np.float64]


def refuse_worthless(positions: pa.Table) -> None:
    """Refuse positions that measured nothing, given as rows of `records.CONTINUATION_POSITIONS`.

    Raises:
        BacktrackingError: there is no event, a value is NaN or infinite, the events' values are all the same without
            intervention, or no intervention changes any of them.
    """
    frame = positions.to_pandas()
    events = frame[frame["kind"] == "event"]
    if events.empty:
        raise BacktrackingError("The continuation ablation has no event; an empty result is an error.")
    for name in _MEASURED:
        broken = frame.loc[~np.isfinite(frame[name].to_numpy(dtype=np.float64))]
        if len(broken):
            row = broken.iloc[0]
            raise BacktrackingError(
                f"{name} of {len(broken)} positions is NaN or infinite, the first is sample {row['sample_id']} of "
                f"problem {row['problem_id']!r}, {Cell(row['layer_subset'], row['scale'])}; nothing was stored."
            )
    unscaled = events[_is(events, UNSCALED)].set_index(_KEY)
    for name in _MEASURED:
        if len(unscaled) > 1 and unscaled[name].nunique() == 1:
            raise BacktrackingError(
                f"{name} is {unscaled[name].iloc[0]:.6g} at each of {len(unscaled)} events without intervention; a "
                "constant measures nothing, and nothing was stored."
            )
    scaled = events[~_is(events, UNSCALED)].join(unscaled[list(_MEASURED)].add_suffix("_unscaled"), on=_KEY)
    if len(scaled) and all((scaled[name] == scaled[f"{name}_unscaled"]).all() for name in _MEASURED):
        raise BacktrackingError(
            f"No intervention changes any value at any of {len(unscaled)} events; they do not act, and nothing was "
            "stored."
        )


def summarize(
    positions: pa.Table,
    samples: pa.Table,
    *,
    problem_set_digest: str,
    rules_digest: str,
    statistics: Statistics,
    run_id: str,
) -> pa.Table:
    """Each measure of each intervention, and its difference to the unscaled run over the same positions.

    Args:
        positions: rows of `records.CONTINUATION_POSITIONS`.
        samples: rows of `records.CONTINUATION_SAMPLES`, of the same computation.

    Returns:
        A table with the schema CONTINUATION_SUMMARIES: the unscaled run first, then cells in the order given.

    Raises:
        BacktrackingError: an intervention lacks a position of the unscaled run or has others.
    """
    frame = positions.to_pandas()
    sampled = samples.to_pandas()
    fixed = {
        "fingerprint": frame["fingerprint"].iloc[0],
        "problem_set_digest": problem_set_digest,
        "rules_digest": rules_digest,
        "continuation_digest": frame["continuation_digest"].iloc[0],
        "statistics_digest": statistics_digest(statistics),
        "run_id": run_id,
    }
    rows: list[dict[str, Any]] = []
    for kind in ("event", "control"):
        own = frame[frame["kind"] == kind]
        for measure in _measures(sampled=False) if len(own) else ():
            # A position is scaled at itself alone, so this is where all of these measures stand.
            rows += _rows(own, measure, kind, "one_position", statistics)
    for place in _PLACES[1:]:
        own = sampled[sampled["scaled_at"].isin(["nowhere", place])]
        for measure in _measures(sampled=True) if len(own) else ():
            rows += _rows(own, measure, "event", place, statistics)
    rows = [{**row, **fixed} for row in rows if row["scaled_at"] != "nowhere" or _is_first(row, rows)]
    for row in rows:
        row["p_holm"] = None
    for family in _families(rows):
        for row, corrected in zip(family, holm([row["p_value"] for row in family]), strict=True):
            row["p_holm"] = corrected
    return pa.Table.from_pylist(rows, schema=CONTINUATION_SUMMARIES)


def _measures(*, sampled: bool) -> list[ContinuationMeasure]:
    return [measure for measure in CONTINUATION_MEASURES.values() if measure.sampled == sampled]


def _rows(
    frame: pd.DataFrame, measure: ContinuationMeasure, kind: str, place: str, statistics: Statistics
) -> list[dict[str, Any]]:
    """One measure of the unscaled run and of every cell in the frame."""
    reference = frame[_is(frame, UNSCALED)].sort_values(_KEY, ignore_index=True)
    rows = [_row(UNSCALED, kind, "nowhere", measure, _estimate(measure, reference, statistics), None)]
    cells = dict.fromkeys(Cell(*pair) for pair in zip(frame["layer_subset"], frame["scale"], strict=True))
    for cell in cells:
        if cell == UNSCALED:
            continue
        own = frame[_is(frame, cell)].sort_values(_KEY, ignore_index=True)
        if not own[_KEY].equals(reference[_KEY]):
            raise BacktrackingError(f"{cell} was not measured at the positions of the unscaled run; compute both anew.")
        # Both are in the order of their keys, which are the same: row by row they are pairs.
        difference = paired_difference(
            *_values(measure, own),
            *_values(measure, reference),
            own["problem_id"].to_numpy(),
            confidence=statistics.confidence,
            resamples=statistics.resamples,
            seed=statistics.seed,
            is_share=measure.unit in ("probability", "share"),
        )
        rows.append(_row(cell, kind, place, measure, _estimate(measure, own, statistics), difference))
    return rows


def _row(
    cell: Cell,
    kind: str,
    place: str,
    measure: ContinuationMeasure,
    estimate: Estimate,
    difference: Difference | None,
) -> dict[str, Any]:
    methods = [estimate.method] if difference is None else [estimate.method, difference.method]
    return {
        "layer_subset": cell.layer_subset,
        "scale": cell.scale,
        "kind": kind,
        "scaled_at": place,
        "measure": measure.name,
        "estimate": estimate.estimate,
        "low": estimate.low,
        "high": estimate.high,
        "difference": None if difference is None else difference.difference,
        "difference_low": None if difference is None else difference.low,
        "difference_high": None if difference is None else difference.high,
        "p_value": None if difference is None else difference.p_value,
        "n": estimate.n,
        "n_problems": estimate.n_clusters,
        "method": "; ".join(methods),
    }


def _estimate(measure: ContinuationMeasure, frame: pd.DataFrame, statistics: Statistics) -> Estimate:
    numerators, denominators = _values(measure, frame)
    clusters = frame["problem_id"].to_numpy()
    if measure.unit == "share":
        return share(numerators, denominators, clusters, confidence=statistics.confidence)
    found = mean(numerators, clusters, confidence=statistics.confidence)
    if measure.unit != "probability" or found.low is None or found.high is None:
        return found
    # A symmetric interval may pass the bounds of a probability, where it says nothing.
    low, high = max(found.low, 0.0), min(found.high, 1.0)
    return Estimate(found.estimate, low, high, found.n, found.n_clusters, f"{found.method}, within 0 and 1")


def _values(measure: ContinuationMeasure, frame: pd.DataFrame) -> tuple[_Floats, _Floats]:
    """Numerator and denominator of a measure in each row."""
    if measure.sampled:
        return (
            frame[_COUNTED[measure.name]].to_numpy(dtype=np.float64),
            frame["n_continuations"].to_numpy(dtype=np.float64),
        )
    if measure.name == "onset_first":
        values = np.equal(frame["onset_rank"].to_numpy(), 1).astype(np.float64)
    else:
        values = frame[measure.name].to_numpy(dtype=np.float64)
    return values, np.ones(len(frame))


def _is(frame: pd.DataFrame, cell: Cell) -> pd.Series:
    return (frame["layer_subset"] == cell.layer_subset) & (frame["scale"] == cell.scale)


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("layer_subset", "scale", "kind", "scaled_at", "measure"))


def _is_first(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Whether no earlier row has its identity: the unscaled run stands beside both places and is stored once."""
    return next(other for other in rows if _identity(other) == _identity(row)) is row


def _families(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows that are corrected together: the cells of one kind, place and measure."""
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(_identity(row)[2:], []).append(row)
    return list(families.values())
