"""The logit lens in figures: events beside matched positions, layer by layer."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from backtracking_assets.analysis.statistics import Estimate, holm, mean, paired_difference
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.scan_records import LENS_SUMMARIES

LENS_MEASURES = ("onset_logit", "onset_log_probability", "onset_rank")
_KEY = ["problem_id", "sample_id"]
_EVENT_KEY = ["event_problem_id", "event_sample_id"]


def refuse_worthless_lens(positions: pa.Table) -> None:
    """Refuse a logit lens that measured nothing, given as rows of `scan_records.LENS_POSITIONS`.

    Raises:
        BacktrackingError: there is no event, a value is NaN or infinite, or the events' values are the same after every
            layer.
    """
    frame = positions.to_pandas()
    events = frame[frame["kind"] == "event"]
    if events.empty:
        raise BacktrackingError("The logit lens has no event; an empty result is an error.")
    for name in LENS_MEASURES:
        broken = frame.loc[~np.isfinite(frame[name].to_numpy(dtype=np.float64))]
        if len(broken):
            row = broken.iloc[0]
            raise BacktrackingError(
                f"{name} of the logit lens is NaN or infinite at {len(broken)} places, the first is layer "
                f"{row['layer']} at sample {row['sample_id']} of problem {row['problem_id']!r}; nothing was stored."
            )
    if len(events) > 1 and events["onset_log_probability"].nunique() == 1:
        raise BacktrackingError(
            f"The logit lens gives {events['onset_log_probability'].iloc[0]:.6g} after every layer of all events; a "
            "constant measures nothing, and nothing was stored."
        )


def summarize_lens(positions: pa.Table, *, statistics: Statistics, run_id: str) -> pa.Table:
    """Means over events and over matched positions after every layer, and their paired difference.

    Args:
        positions: rows of `scan_records.LENS_POSITIONS`.

    Returns:
        A table with the schema LENS_SUMMARIES, by measure, then by layer. Clusters are problems; those of a pair, its
        event's.
    """
    frame = positions.to_pandas().sort_values(["layer", *_KEY])  # the last bits of a sum depend on its order
    digests = {"scan_digest": frame["scan_digest"].iloc[0], "statistics_digest": statistics_digest(statistics)}
    rows: list[dict[str, Any]] = []
    for measure in LENS_MEASURES:
        family = [
            {
                "layer": int(str(layer)),
                "measure": measure,
                **_row(own, measure, statistics),
                **digests,
                "run_id": run_id,
            }
            for layer, own in frame.groupby("layer", sort=True)
        ]
        for row, corrected in zip(family, holm([row["p_value"] for row in family]), strict=True):
            row["p_holm"] = corrected
        rows += family
    return pa.Table.from_pylist(rows, schema=LENS_SUMMARIES)


def _row(frame: pd.DataFrame, measure: str, statistics: Statistics) -> dict[str, Any]:
    events, controls = (frame[frame["kind"] == kind] for kind in ("event", "control"))
    at_events, at_controls = (_mean(own, measure, statistics) for own in (events, controls))
    pairs = controls.merge(events, left_on=_EVENT_KEY, right_on=_KEY, suffixes=("", "_event"), validate="one_to_one")
    if len(pairs) != len(controls):
        raise BacktrackingError("A matched position of the logit lens has no event; compute it anew.")
    ones = np.ones(len(pairs))
    difference = paired_difference(
        pairs[f"{measure}_event"].to_numpy(dtype=np.float64),
        ones,
        pairs[measure].to_numpy(dtype=np.float64),
        ones,
        pairs["event_problem_id"].to_numpy(),
        confidence=statistics.confidence,
        resamples=statistics.resamples,
        seed=statistics.seed,
        is_share=False,
    )
    return {
        "event_estimate": at_events.estimate,
        "event_low": at_events.low,
        "event_high": at_events.high,
        "control_estimate": at_controls.estimate,
        "control_low": at_controls.low,
        "control_high": at_controls.high,
        "difference": difference.difference,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p_value": difference.p_value,
        "n_events": at_events.n,
        "n_event_problems": at_events.n_clusters,
        "n_pairs": difference.n_pairs,
        "n_pair_problems": difference.n_clusters,
        "method": f"{at_events.method}; {difference.method}",
    }


def _mean(frame: pd.DataFrame, measure: str, statistics: Statistics) -> Estimate:
    values = frame[measure].to_numpy(dtype=np.float64)
    return mean(values, frame["problem_id"].to_numpy(), confidence=statistics.confidence)
