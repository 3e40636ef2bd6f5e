"""Selecting components by the scan, and how stable the selection is over problems."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from backtracking_assets.analysis.component_summaries import SPECIFIC_DROP, specific_drops
from backtracking_assets.analysis.statistics import mean
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.scan_plan import Scan
from backtracking_assets.scan_records import SELECTED_COMPONENTS, ScanMode

SELECTION_VERSION = "1"
"""Raised whenever other components are selected from the same scan."""

_MOVED = {"zero": "scaled to 0", "mean": "moved to its mean"}


def criterion(mode: ScanMode) -> str:
    """The criterion in words."""
    return (
        "Mean over events of the drop of the log-probability that a trigger begins, minus the drop of the "
        "log-probability of the token that the baseline drew at the event's matched position without an event; the "
        f"component is {_MOVED[mode]} at that one position."
    )


def select_components(
    positions: pa.Table,
    effects: pa.Table,
    settings: Scan,
    *,
    statistics: Statistics,
    selection_digest: str,
    run_id: str,
) -> pa.Table:
    """All components of each kind, best first by the criterion; the first `settings.top` of a kind are selected.

    `selected_share` is that of bootstrap resamples of problems in which a component is among the first of its kind. Of
    equal scores the lower layer goes first.

    Args:
        positions, effects: rows of `SCAN_POSITIONS` and `COMPONENT_EFFECTS`.

    Returns:
        A table with the schema SELECTED_COMPONENTS, by component, then rank.

    Raises:
        BacktrackingError: no event has a matched position, so that specificity cannot be judged.
    """
    drops = specific_drops(positions, effects)
    drops = drops[drops["mode"] == settings.select_by]
    if drops.empty:
        raise BacktrackingError(
            "No event of the component scan has a matched position, so a component that is specific cannot be told "
            "from one that breaks the model; raise phase1.count or phase1.samples, which give more completions "
            "without an event."
        )
    fixed = {
        "criterion": criterion(settings.select_by),
        "selection_digest": selection_digest,
        "scan_digest": positions["scan_digest"][0].as_py(),
        "run_id": run_id,
    }
    rows: list[dict[str, Any]] = []
    for component, own in drops.groupby("component", sort=True):
        rows += [{"component": component, **row, **fixed} for row in _ranked(own, settings, statistics)]
    return pa.Table.from_pylist(rows, schema=SELECTED_COMPONENTS)


def selected_layers(selection: pa.Table) -> dict[str, list[int]]:
    """The selected layers by kind, best first, from rows of `SELECTED_COMPONENTS`."""
    rows = sorted(selection.to_pylist(), key=lambda row: row["rank"])
    return {
        kind: [row["layer"] for row in rows if row["component"] == kind and row["selected"]]
        for kind in ("attention", "mlp")
    }


def _ranked(frame: pd.DataFrame, settings: Scan, statistics: Statistics) -> list[dict[str, Any]]:
    """The components of one kind, best first."""
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    by_problem = frame.pivot_table(index="problem_id", columns="layer", values=SPECIFIC_DROP, aggfunc="sum")[layers]
    counts = frame[frame["layer"] == layers[0]].groupby("problem_id").size().reindex(by_problem.index)
    sums, sizes = by_problem.to_numpy(dtype=np.float64), np.asarray(counts, dtype=np.float64)
    order = _best_first((sums.sum(axis=0) / sizes.sum())[np.newaxis])[0]
    shares = _selected_shares(sums, sizes, settings)
    rows = []
    for rank, column in enumerate(order, start=1):
        own = frame[frame["layer"] == layers[column]]
        found = mean(
            own[SPECIFIC_DROP].to_numpy(dtype=np.float64),
            own["problem_id"].to_numpy(),
            confidence=statistics.confidence,
        )
        rows.append(
            {
                "layer": layers[column],
                "rank": rank,
                "selected": rank <= settings.top,
                "score": found.estimate,
                "low": found.low,
                "high": found.high,
                "selected_share": float(shares[column]),
                "n_events": found.n,
                "n_problems": found.n_clusters,
            }
        )
    return rows


def _selected_shares(
    sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], settings: Scan
) -> npt.NDArray[np.float64]:
    """In which share of resamples of problems each column is among the first; `[columns]`."""
    n_problems, n_columns = sums.shape
    draws = np.random.default_rng([settings.seed, 2]).multinomial(
        n_problems, np.full(n_problems, 1 / n_problems), size=settings.bootstrap
    )
    means = (draws @ sums) / (draws @ sizes)[:, np.newaxis]
    first = _best_first(means)[:, : settings.top]
    return np.bincount(first.ravel(), minlength=n_columns) / settings.bootstrap


def _best_first(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Columns of each row by falling score; of equal ones the first column goes first."""
    return np.argsort(-scores, axis=1, kind="stable")
