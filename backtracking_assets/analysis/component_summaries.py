"""The component scan in figures: what moving each component at one position changes, and how specific it is.

A component that merely breaks the model lowers the trigger's probability as well. So beside the change at events stands
the change at matched positions, where the baseline went on without a trigger: `specific_drop` is what the log-
probability of a trigger loses at the event, minus what the log-probability of the token that the baseline drew loses at
the event's matched position. Both are losses of what the baseline did there, in nats.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from backtracking_assets.analysis.statistics import holm, mean, sign_flip_p
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.scan_records import COMPONENT_SUMMARIES, DIVERGENCES, FIGURES

SCAN_VERSION = "1"
"""Raised whenever other positions are scanned, or other values come from the same positions."""

SPECIFIC_DROP = "specific_drop"

_KEY = ["problem_id", "sample_id"]
_EVENT_KEY = ["event_problem_id", "event_sample_id"]
_COMPONENT = ["mode", "component", "layer"]


def refuse_worthless_scan(positions: pa.Table, effects: pa.Table) -> None:
    """Refuse a scan that measured nothing, given as rows of `SCAN_POSITIONS` and `COMPONENT_EFFECTS`.

    Raises:
        BacktrackingError: there is no event, a value is NaN or infinite, the events' values are all the same without
            intervention, or no component changes any of them.
    """
    events = positions.to_pandas()
    events = events[events["kind"] == "event"]
    if events.empty or effects.num_rows == 0:
        raise BacktrackingError("The component scan has no event; an empty result is an error.")
    changes = effects.to_pandas()
    for name in (*FIGURES, *DIVERGENCES):
        broken = changes.loc[~np.isfinite(changes[name].to_numpy(dtype=np.float64))]
        if len(broken):
            row = broken.iloc[0]
            raise BacktrackingError(
                f"{name} of {len(broken)} rows of the component scan is NaN or infinite, the first is that of "
                f"{row['component']} {row['layer']} moved to {row['mode']} at sample {row['sample_id']} of problem "
                f"{row['problem_id']!r}; nothing was stored."
            )
    if len(events) > 1 and events["onset_log_probability"].nunique() == 1:
        raise BacktrackingError(
            f"onset_log_probability is {events['onset_log_probability'].iloc[0]:.6g} at each of {len(events)} events "
            "without intervention; a constant measures nothing, and nothing was stored."
        )
    if (changes[list(FIGURES)] == 0).all(axis=None):
        raise BacktrackingError(
            f"No component changes any value at any of {len(events)} events; the scan does not act, and nothing was "
            "stored."
        )


def specific_drops(positions: pa.Table, effects: pa.Table) -> pd.DataFrame:
    """`specific_drop` of every component at every event that has a matched position.

    Returns:
        Columns mode, component, layer, problem_id and sample_id (the event's), specific_drop in nats.

    Raises:
        BacktrackingError: an event and its matched position were not scanned for the same components.
    """
    where = positions.select([*_KEY, "kind", *_EVENT_KEY]).to_pandas()
    wanted = ["trigger_log_probability", "ordinary_log_probability"]
    changes = effects.select([*_KEY, *_COMPONENT, *wanted]).to_pandas().merge(where, on=_KEY, validate="many_to_one")
    keys = [*_EVENT_KEY, *_COMPONENT]
    at_event, at_control = (changes[changes["kind"] == kind].set_index(keys) for kind in ("event", "control"))
    triggers = at_event["trigger_log_probability"].rename("trigger")
    pairs = at_control[["ordinary_log_probability"]].join(triggers, validate="one_to_one")
    if pairs["trigger"].isna().any():
        raise BacktrackingError("A matched position was scanned for a component that its event lacks; scan both anew.")
    drop = pairs["ordinary_log_probability"] - pairs["trigger"]
    named = drop.rename(SPECIFIC_DROP).reset_index()
    return named.rename(columns=dict(zip(_EVENT_KEY, _KEY, strict=True))).sort_values(
        [*_COMPONENT, *_KEY], ignore_index=True
    )


def summarize_scan(positions: pa.Table, effects: pa.Table, *, statistics: Statistics, run_id: str) -> pa.Table:
    """Every figure's mean change under each component, at events and at matched positions, and the specific drop.

    Returns:
        A table with the schema COMPONENT_SUMMARIES. Intervals are clustered by problem. p-values are by sign flips and
        corrected over the components; distances have none, as they are never below 0.
    """
    where = positions.select([*_KEY, "kind"]).to_pandas()
    # Sorted, as the last bits of a sum depend on its order.
    changes = effects.to_pandas().merge(where, on=_KEY, validate="many_to_one").sort_values([*_COMPONENT, *_KEY])
    fixed = {
        "scan_digest": changes["scan_digest"].iloc[0],
        "statistics_digest": statistics_digest(statistics),
        "run_id": run_id,
    }
    rows: list[dict[str, Any]] = []
    for kind in ("event", "control"):
        own = changes[changes["kind"] == kind]
        for measure in (*FIGURES, *DIVERGENCES) if len(own) else ():
            rows += _family(own, measure, kind, statistics)
    drops = specific_drops(positions, effects)
    if len(drops):
        rows += _family(drops, SPECIFIC_DROP, "event", statistics)
    return pa.Table.from_pylist([{**row, **fixed} for row in rows], schema=COMPONENT_SUMMARIES)


def _family(frame: pd.DataFrame, measure: str, kind: str, statistics: Statistics) -> list[dict[str, Any]]:
    """One measure of every component; p-values are corrected within a mode."""
    rows: list[dict[str, Any]] = []
    for mode, of_mode in frame.groupby("mode", sort=True):
        family = []
        for name, own in of_mode.groupby(["component", "layer"], sort=True):
            component, layer = tuple(name) if isinstance(name, tuple) else (name, 0)
            values, clusters = own[measure].to_numpy(dtype=np.float64), own["problem_id"].to_numpy()
            found = mean(values, clusters, confidence=statistics.confidence)
            p_value, method = None, found.method
            if measure not in DIVERGENCES:
                p_value, flips = sign_flip_p(values, clusters, resamples=statistics.resamples, seed=statistics.seed)
                method = f"{method}; {flips}"
            family.append(
                {
                    "layer": int(str(layer)),
                    "component": component,
                    "mode": mode,
                    "kind": kind,
                    "measure": measure,
                    "estimate": found.estimate,
                    "low": found.low,
                    "high": found.high,
                    "p_value": p_value,
                    "n": found.n,
                    "n_problems": found.n_clusters,
                    "method": method,
                }
            )
        for row, corrected in zip(family, holm([row["p_value"] for row in family]), strict=True):
            row["p_holm"] = corrected
        rows += family
    return rows
