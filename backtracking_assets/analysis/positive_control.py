"""The method held against a known truth: the scan's ranking of components, and the sweep's of layer subsets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backtracking_assets.analysis.planted_truth import PlantedTruth
from backtracking_assets.analysis.rankings import find, mean_scores, ranked
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.positive_control_records import (
    KINDS,
    POSITIVE_CONTROL_COMPONENTS,
    POSITIVE_CONTROL_FIGURES,
    TruthName,
)
from backtracking_assets.records import Component

POSITIVE_CONTROL_VERSION = "1"
"""Raised when other figures come from the same scan and sweep."""

_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """What one criterion of the scan says of every component, event by event."""

    mode: str
    measure: str
    components: tuple[tuple[int, Component], ...]
    """Pairs (layer, component), the columns of `values`."""
    values: _Floats
    """`[events, components]`; higher is more important."""
    problem_ids: tuple[str, ...]
    """Of each event."""

    @property
    def importance(self) -> _Floats:
        """Mean over events, `[components]`."""
        sums, rows = mean_scores(self.values, self.problem_ids)
        return sums.sum(axis=0) / rows.sum()


def refuse_unfit(scores: Sequence[Scores], truth: PlantedTruth) -> None:
    """Refuse a scan that cannot be held against the truth.

    Raises:
        BacktrackingError: there is none, a value is NaN or infinite, a criterion gives every component the same
            importance, or it lacks a planted component.
    """
    if not scores:
        raise BacktrackingError("The scan has no figure of any component; an empty result is an error.")
    for each in scores:
        name = f"{each.measure} ({each.mode})"
        if each.values.size == 0 or not np.isfinite(each.values).all():
            raise BacktrackingError(f"{name} of the scan is empty, NaN or infinite; nothing was stored.")
        if np.ptp(each.importance) == 0:
            raise BacktrackingError(f"{name} of the scan is the same for every component; nothing was stored.")
        for layer, component in sorted(truth.planted - set(each.components)):
            raise BacktrackingError(
                f"{name} of the scan lacks {component} {layer}, which was planted: scan and truth are of different "
                "organisms; nothing was stored."
            )


def ranked_components(
    scores: Iterable[Scores], truth: PlantedTruth, margin: float, fixed: Mapping[str, Any]
) -> pa.Table:
    """Every component's importance and rank by every criterion, beside the truth about it.

    Args:
        fixed: control_digest and run_id.

    Returns:
        A table with the schema POSITIVE_CONTROL_COMPONENTS.
    """
    rows: list[dict[str, Any]] = []
    causal = truth.causal(margin)
    for each in scores:
        planted, importance = _among(truth.planted, each), each.importance
        ranks = ranked(importance, planted)
        of_kind = np.zeros_like(ranks)
        for kind in KINDS[1:]:
            own = _of_kind(each, kind)
            of_kind[own] = ranked(importance[own], planted[own])
        for number, (layer, component) in enumerate(each.components):
            drop = truth.drop_of(layer, component)
            rows.append(
                {
                    "mode": each.mode,
                    "measure": each.measure,
                    "layer": layer,
                    "component": component,
                    "importance": float(importance[number]),
                    "rank": int(ranks[number]),
                    "rank_of_kind": int(of_kind[number]),
                    "planted": bool(planted[number]),
                    "causal": (layer, component) in causal,
                    "drop": None if drop is None else drop.estimate,
                    "drop_low": None if drop is None else drop.low,
                    "drop_high": None if drop is None else drop.high,
                    "n": len(each.problem_ids),
                    "n_problems": len(set(each.problem_ids)),
                    **fixed,
                }
            )
    return pa.Table.from_pylist(rows, schema=POSITIVE_CONTROL_COMPONENTS)


def judged_rankings(
    scores: Iterable[Scores], truth: PlantedTruth, margin: float, statistics: Statistics, fixed: Mapping[str, Any]
) -> pa.Table:
    """How well every criterion's ranking finds what was planted, and what of it is causal.

    Where all of a kind are true, or none is, there is nothing to find and no row.

    Returns:
        A table with the schema POSITIVE_CONTROL_FIGURES.
    """
    sets: dict[TruthName, frozenset[tuple[int, Component]]] = {
        "planted": truth.planted,
        "causal": truth.causal(margin),
    }
    rows: list[dict[str, Any]] = []
    for each in scores:
        for name, true_set in sets.items():
            true = _among(true_set, each)
            for kind in KINDS:
                own = _of_kind(each, kind)
                if true[own].any() and not true[own].all():
                    shared = {
                        "part": "scan",
                        "subject": each.measure,
                        "setting": each.mode,
                        "kind": kind,
                        "truth": name,
                        **fixed,
                    }
                    rows += [shared | row for row in _figures(each, own, true, statistics)]
    return pa.Table.from_pylist(rows, schema=POSITIVE_CONTROL_FIGURES)


def rank_among_draws(
    subset: str, scale: float, difference: float, draws: Sequence[float], fixed: Mapping[str, Any]
) -> pa.Table:
    """Where a targeted subset's difference to the baseline stands among those of its random draws, the lowest first.

    p = rank / (draws + 1), one-sided: under no difference between the subset and its draws each rank is as likely
    (Davison and Hinkley 1997, section 4.2). What ties stands in front of the subset.

    Returns:
        A table with the schema POSITIVE_CONTROL_FIGURES, of one row.
    """
    rank, n = 1 + sum(draw <= difference for draw in draws), len(draws) + 1
    row = {
        "part": "sweep",
        "subject": subset,
        "setting": repr(float(scale)),
        "kind": "draws",
        "truth": "",
        "figure": "rank_among_draws",
        "estimate": float(rank),
        "low": None,
        "high": None,
        "p_value": rank / n,
        "chance": None,
        "n_true": 1,
        "n": n,
        **fixed,
    }
    return pa.Table.from_pylist([row], schema=POSITIVE_CONTROL_FIGURES)


def _figures(each: Scores, own: _Bools, true: _Bools, statistics: Statistics) -> Iterator[dict[str, Any]]:
    found = find(
        each.values[:, own],
        each.problem_ids,
        true[own],
        confidence=statistics.confidence,
        resamples=statistics.resamples,
        seed=statistics.seed,
    )
    for name in ("precision_at_k", "recall_at_2k", "average_precision", "roc_auc"):
        interval, is_tested = getattr(found, name), name == "average_precision"
        yield {
            "figure": name,
            "estimate": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "p_value": found.p_value if is_tested else None,
            "chance": found.chance if is_tested else None,
            "n_true": found.n_true,
            "n": found.n_candidates,
        }


def _among(wanted: frozenset[tuple[int, Component]], scores: Scores) -> _Bools:
    return np.array([pair in wanted for pair in scores.components])


def _of_kind(scores: Scores, kind: str) -> _Bools:
    return np.array([kind in ("all", component) for _, component in scores.components])
