"""The scan of components as the positive control ranks it: what each of its criteria says, event by event."""

from collections.abc import Iterator
from typing import cast, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from backtracking_assets.analysis.component_summaries import SPECIFIC_DROP, specific_drops
from backtracking_assets.analysis.positive_control import Scores
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.scanning import held_out_baseline, stored_scan, stored_selection
from backtracking_assets.records import Component
from backtracking_assets.scan_records import ScanMode
from backtracking_assets.storage import queries

CRITERION = SPECIFIC_DROP
"""The criterion by which the study selects components; see `analysis.component_selection`."""

LABELS = {
    SPECIFIC_DROP: "specific drop",
    "trigger_log_odds": "drop of the triggers' log-odds",
    "trigger_log_probability": "drop of the triggers' log-probability",
    "onset_log_probability": "drop of the onset's log-probability",
    "logit_difference": "drop of the logit difference",
    "onset_logit": "drop of the raw logit",
    "kl": "distance to the unscaled distribution",
}
"""The criteria that are held against the truth, the study's own first."""

_DISTANCES = ("kl",)
"""Measures that are higher, not lower, where a component matters."""
_EVENT = ["problem_id", "sample_id"]


def scan_digest(opened: OpenExperiment) -> str | None:
    """Digest of what the stored scan was computed from; None where there is none that is current."""
    summaries = stored_scan(opened)
    return None if summaries is None else summaries["scan_digest"][0].as_py()


def scan_scores(opened: OpenExperiment) -> list[Scores]:
    """What the stored scan says of every component, by criterion and mode; empty where there is no current scan.

    A change is turned into a drop, so that higher is more important.
    """
    if scan_digest(opened) is None:
        return []
    positions = queries.scan_table(opened.layout, "scan_positions")
    effects = queries.scan_table(opened.layout, "component_effects")
    return list(scores_of(positions, effects))


def scores_of(positions: pa.Table, effects: pa.Table) -> Iterator[Scores]:
    """The same, given rows of `SCAN_POSITIONS` and `COMPONENT_EFFECTS`."""
    where = positions.select([*_EVENT, "kind"]).to_pandas()
    changes = effects.to_pandas().merge(where, on=_EVENT, validate="many_to_one")
    at_events = changes[changes["kind"] == "event"]
    drops = specific_drops(positions, effects)
    for mode in get_args(ScanMode):
        for measure in LABELS:
            frame = drops if measure == SPECIFIC_DROP else at_events
            sign = 1.0 if measure in (SPECIFIC_DROP, *_DISTANCES) else -1.0
            own = frame[frame["mode"] == mode]
            if not own.empty:
                yield _scores(mode, measure, own, sign)


def selected_names(opened: OpenExperiment) -> list[tuple[int, Component]] | None:
    """The components that the study selected, attention first, best first; None where there is no current selection."""
    selection = stored_selection(opened)
    if selection is None:
        return None
    rows = sorted(selection.to_pylist(), key=lambda row: (row["component"], row["rank"]))
    return [(row["layer"], row["component"]) for row in rows if row["selected"]]


def scanned_completions(opened: OpenExperiment) -> pa.Table:
    """The baseline's completions whose events were scanned, rows of `records.COMPLETIONS`.

    Raises:
        BacktrackingError: they are not there.
    """
    positions = queries.scan_table(opened.layout, "scan_positions")
    completions = held_out_baseline(opened).completions
    return completions.filter(pc.field("problem_id").isin(positions["problem_id"].unique().to_pylist()))


def _scores(mode: str, measure: str, frame: pd.DataFrame, sign: float) -> Scores:
    wide = (
        frame.pivot(index=_EVENT, columns=["layer", "component"], values=measure).sort_index(axis=0).sort_index(axis=1)
    )
    components: list[tuple[int, Component]] = [(int(layer), cast(Component, kind)) for layer, kind in wide.columns]
    return Scores(
        mode=mode,
        measure=measure,
        components=tuple(components),
        values=sign * wide.to_numpy(dtype=np.float64),
        problem_ids=tuple(str(problem_id) for problem_id, _ in wide.index),
    )
