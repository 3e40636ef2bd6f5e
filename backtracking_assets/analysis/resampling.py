"""Bootstrap resamples and sign flips over clusters, drawn once for all columns that are asked of the same clusters."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]

MOST_EXACT_FLIPS = 16
"""Up to so many clusters that differ, all sign flips are gone through; above, they are sampled."""
LEAST_DEFINED = 0.95
"""Share of bootstrap resamples in which a ratio must have a denominator for its interval to be given."""
_LARGEST_EXACT = 2**24
"""Below it, single precision holds every integer."""


@dataclass(frozen=True, eq=False)
class Column:
    """A column of counts by cluster, and its sum in each bootstrap resample."""

    sums: _Floats
    """[clusters]"""
    drawn: _Floats
    """[resamples]"""


@lru_cache(maxsize=4)
def bootstrap_weights(n_clusters: int, resamples: int, seed: int) -> _Floats:
    """How often each cluster is drawn in each resample: [resamples, clusters]. Kept, as cells share their problems."""
    draws = np.random.default_rng([seed, 0]).integers(0, n_clusters, (resamples, n_clusters))
    flat = (draws + n_clusters * np.arange(resamples)[:, np.newaxis]).ravel()
    weights = np.bincount(flat, minlength=resamples * n_clusters).reshape(resamples, n_clusters).astype(np.float64)
    weights.setflags(write=False)
    return weights


def resampled_columns(sums: _Floats, *, resamples: int, seed: int) -> list[Column]:
    """Columns of the sums of clusters: [columns, clusters], none without clusters.

    Sums of whole numbers are exact, however many columns are multiplied together: in single precision where all of
    them stay below 2^24, which takes half the time.
    """
    n_columns, n_clusters = sums.shape
    if n_clusters == 0:
        drawn = np.zeros((n_columns, resamples))
    elif n_clusters * np.abs(sums).max(initial=0.0) < _LARGEST_EXACT and (sums == np.rint(sums)).all():
        product = sums.astype(np.float32) @ _single_precision(n_clusters, resamples, seed)
        drawn = product.astype(np.float64)
    else:
        drawn = np.ascontiguousarray((bootstrap_weights(n_clusters, resamples, seed) @ sums.T).T)
    return [Column(own, of_resamples) for own, of_resamples in zip(sums, drawn, strict=True)]


def resampled_sums(columns: _Floats, *, resamples: int, seed: int) -> _Floats:
    """Sums of any columns of clusters in each resample: [columns, clusters] to [columns, resamples]."""
    return columns @ _by_cluster(columns.shape[1], resamples, seed)


@lru_cache(maxsize=2)
def _by_cluster(n_clusters: int, resamples: int, seed: int) -> _Floats:
    """`bootstrap_weights` as a product with a few columns reads them fastest: [clusters, resamples]."""
    return np.ascontiguousarray(bootstrap_weights(n_clusters, resamples, seed).T)


@lru_cache(maxsize=2)
def _single_precision(n_clusters: int, resamples: int, seed: int) -> npt.NDArray[np.float32]:
    """[clusters, resamples]"""
    return _by_cluster(n_clusters, resamples, seed).astype(np.float32)


def sign_flip_p_values(
    contributions: Sequence[_Floats], *, resamples: int, seed: int
) -> list[tuple[float, Literal["exact", "sampled"]]]:
    """Two-sided p-values of sums over the same clusters by sign flips, and how the flips were made.

    All flips of what is not 0 are gone through up to `MOST_EXACT_FLIPS`; above, ``resamples`` are drawn.
    """
    found: dict[int, tuple[float, Literal["exact", "sampled"]]] = {}
    thresholds: dict[int, float] = {}
    for number, own in enumerate(contributions):
        # Rounding must not make a difference of a contribution that is 0, nor of two flips that tie.
        rounding = 1e-9 * float(np.abs(own).max(initial=0.0))
        other_than_zero = own[np.abs(own) > rounding]
        thresholds[number] = abs(float(own.sum())) - rounding
        if len(other_than_zero) == 0:
            found[number] = 1.0, "exact"
        elif len(other_than_zero) <= MOST_EXACT_FLIPS:
            flipped = _all_flips(other_than_zero)
            found[number] = _n_as_extreme(flipped, thresholds[number]) / len(flipped), "exact"
    rest = [number for number in thresholds if number not in found]
    if rest:
        sums = np.stack([contributions[number] for number in rest]) @ _signs(len(contributions[0]), resamples, seed)
        for number, flipped in zip(rest, sums, strict=True):
            found[number] = (1 + _n_as_extreme(flipped, thresholds[number])) / (1 + resamples), "sampled"
    return [found[number] for number in thresholds]


def _n_as_extreme(flipped: _Floats, threshold: float) -> int:
    return int(np.count_nonzero(np.abs(flipped) >= threshold))


def _all_flips(contributions: _Floats) -> _Floats:
    """The sum under every choice of signs in which the first is +: the other half mirrors them. [2^(clusters - 1)]."""
    sums = contributions[:1]
    for contribution in contributions[1:]:
        sums = np.concatenate([sums + contribution, sums - contribution])
    return sums


@lru_cache(maxsize=4)
def _signs(n_clusters: int, resamples: int, seed: int) -> _Floats:
    """Random signs: [clusters, resamples]."""
    draws = np.random.default_rng([seed, 1]).integers(0, 2, (resamples, n_clusters))
    signs = np.ascontiguousarray((1.0 - 2.0 * draws.astype(np.float64)).T)
    signs.setflags(write=False)
    return signs
