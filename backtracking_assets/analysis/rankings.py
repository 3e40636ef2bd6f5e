"""How well a ranking of components finds a known set: precision, recall, average precision, area under the curve.

Scores are means over events, and events of one problem are not independent; so intervals come from a bootstrap over
problems. Ties count against the ranking: what is true stands behind what it ties with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """A figure of a ranking with its bootstrap interval."""

    estimate: float
    low: float | None
    """None with a single problem."""
    high: float | None


@dataclass(frozen=True)
class Found:
    """How well one ranking finds a set of `n_true` among `n_candidates`."""

    n_true: int
    n_candidates: int
    precision_at_k: Interval
    """Share of the first `n_true` that are true; the same as recall there."""
    recall_at_2k: Interval
    """Share of the true ones that are among the first `2 * n_true`."""
    average_precision: Interval
    """Mean over the true ones of the precision at their rank."""
    roc_auc: Interval
    """Probability that a true one stands before one that is not."""
    chance: float
    """Mean average precision of random orders."""
    p_value: float
    """Of an average precision at least as high in a random order, (1 + k) / (1 + draws)."""


def mean_scores(scores: _Floats, clusters: Sequence[str]) -> tuple[_Floats, _Floats]:
    """Sums of each candidate's scores by cluster, and the rows of each cluster.

    Args:
        scores: `[events, candidates]`.
        clusters: the problem of each event.

    Returns:
        Sums `[clusters, candidates]` and rows `[clusters]`, clusters sorted by name.

    Raises:
        ValueError: a score is NaN or infinite, or there is none.
    """
    if scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError("scores to rank by must be there and finite")
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(labels), scores.shape[1]))
    np.add.at(sums, index, scores)
    return sums, np.bincount(index, minlength=len(labels)).astype(np.float64)


def find(
    scores: _Floats, clusters: Sequence[str], true: _Bools, *, confidence: float, resamples: int, seed: int
) -> Found:
    """How well candidates ranked by their mean score find the true ones.

    Args:
        scores: `[events, candidates]`; higher ranks first.
        clusters: the problem of each event.
        true: `[candidates]`.

    Raises:
        ValueError: no candidate is true, or all are, or a score is not finite.
    """
    if not true.any() or true.all():
        raise ValueError("some candidates must be true and some not")
    sums, rows = mean_scores(scores, clusters)
    estimates = _figures((sums.sum(axis=0) / rows.sum())[np.newaxis], true)[:, 0]
    low = high = None
    if len(rows) > 1:
        weights = _weights(len(rows), resamples, seed)
        found = _figures((weights @ sums) / (weights @ rows)[:, np.newaxis], true)
        low, high = np.quantile(found, ((1 - confidence) / 2, (1 + confidence) / 2), axis=1)
    at_random = _figures(np.random.default_rng([seed, 1]).random((resamples, len(true))), true)[2]
    as_high = int((at_random >= estimates[2] - 1e-12).sum())

    def interval(number: int) -> Interval:
        ends = (None, None) if low is None or high is None else (float(low[number]), float(high[number]))
        return Interval(float(estimates[number]), *ends)

    return Found(
        n_true=int(true.sum()),
        n_candidates=len(true),
        precision_at_k=interval(0),
        recall_at_2k=interval(1),
        average_precision=interval(2),
        roc_auc=interval(3),
        chance=float(at_random.mean()),
        p_value=(1 + as_high) / (1 + resamples),
    )


def ranked(scores: _Floats, true: _Bools) -> npt.NDArray[np.int64]:
    """Rank of each candidate from 1 by its score, `[candidates]`; of equal scores, what is not true comes first."""
    ranks = np.empty(len(true), dtype=np.int64)
    ranks[np.lexsort((true, -scores))] = np.arange(1, len(true) + 1)
    return ranks


@lru_cache(maxsize=2)
def _weights(n_clusters: int, resamples: int, seed: int) -> _Floats:
    """How often each cluster is drawn in each resample: `[resamples, clusters]`. Kept, as all criteria share it."""
    draws = np.random.default_rng([seed, 0]).integers(0, n_clusters, (resamples, n_clusters))
    flat = (draws + n_clusters * np.arange(resamples)[:, np.newaxis]).ravel()
    weights = np.bincount(flat, minlength=resamples * n_clusters).reshape(resamples, n_clusters).astype(np.float64)
    weights.setflags(write=False)
    return weights


def _figures(scores: _Floats, true: _Bools) -> _Floats:
    """Precision at k, recall at 2k, average precision and area under the curve of each row of scores: `[4, rows]`."""
    # Candidates that are not true first, and a stable sort: they stay in front of true ones of the same score.
    columns = np.argsort(true, kind="stable")
    order = np.argsort(-scores[:, columns], axis=1, kind="stable")
    hit = true[columns][order]
    k, n = int(true.sum()), len(true)
    hits = hit.cumsum(axis=1)
    average_precision = (hit * hits / np.arange(1, n + 1)).sum(axis=1) / k
    # A candidate that is not true is wrongly in front of the true ones that are still to come.
    wrongly = ((k - hits) * ~hit).sum(axis=1)
    return np.stack(
        [hits[:, k - 1] / k, hits[:, min(2 * k, n) - 1] / k, average_precision, 1 - wrongly / (k * (n - k))]
    )
