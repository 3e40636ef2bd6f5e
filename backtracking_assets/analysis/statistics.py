"""Estimates with uncertainty for clustered data: the samples of one problem are not independent draws.

Every function takes one value a row and the cluster (problem) of each row; no order of rows is assumed, and the same
rows give the same figures in any order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.proportion import proportion_confint

Values = Sequence[float] | npt.NDArray[np.number] | npt.NDArray[np.bool_]
Clusters = Sequence[str] | npt.NDArray
_Floats = npt.NDArray[np.float64]

MOST_EXACT_FLIPS = 16
"""Up to so many problems that differ, all sign flips are gone through; above, they are sampled."""
_LEAST_DEFINED = 0.95
"""Share of bootstrap resamples in which a ratio must have a denominator for its interval to be given."""
_RESAMPLES_AT_ONCE = 2_000


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval."""

    estimate: float | None
    """None where nothing was there to measure, or a median was not reached."""
    low: float | None
    high: float | None
    n: int
    """Size of the denominator."""
    n_clusters: int
    """Clusters with anything in the denominator."""
    method: str


@dataclass(frozen=True)
class Difference:
    """A condition minus its baseline, with its interval and its p-value against no difference."""

    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    n_pairs: int
    n_clusters: int
    method: str


def share(numerators: Values, denominators: Values, clusters: Clusters, *, confidence: float) -> Estimate:
    """A share as a ratio of sums, with a Wilson interval on the effective sample size.

    The effective size is n over the design effect (Kish 1965, section 8.2), whose variance is the linearized one of a
    ratio of cluster totals. It is kept between the effective number of clusters, (sum d)^2 / sum d^2 over cluster sizes
    d, which is what fully alike samples would leave, and n. At 0% and 100% no variance can be seen, and the lower
    bound is taken. Wilson on an effective size: Dean and Pagano 2015, J. Surv. Stat. Methodol. 3(4), 484-503.

    Raises:
        ValueError: a numerator is below 0 or above its denominator, or the lengths differ.
    """
    method = "Wilson, effective sample size"
    top, bottom = _cluster_sums(clusters, numerators, denominators)
    if (np.asarray(numerators, dtype=np.float64) > np.asarray(denominators, dtype=np.float64)).any() or (top < 0).any():
        raise ValueError("a share's numerator must lie between 0 and its denominator")
    n, n_clusters = float(bottom.sum()), int((bottom > 0).sum())
    if n == 0:
        return Estimate(None, None, None, 0, 0, method)
    p = float(top.sum()) / n
    fewest = n**2 / float(bottom @ bottom)
    variance = float(((top - p * bottom) ** 2).sum()) / n**2
    if p in (0.0, 1.0):
        effective = fewest
    elif variance == 0:
        effective = n
    else:
        effective = min(max(p * (1 - p) / variance, fewest), n)
    low, high = np.asarray(proportion_confint(p * effective, effective, alpha=1 - confidence, method="wilson"))
    # The bounds of Wilson hold p, but for rounding at 0% and 100%.
    return Estimate(p, min(max(float(low), 0.0), p), max(min(float(high), 1.0), p), round(n), n_clusters, method)


def rate(events: Values, exposures: Values, clusters: Clusters, *, per: float, confidence: float) -> Estimate:
    """Events for every ``per`` units of exposure as a ratio of sums, with a cluster-robust t interval.

    The variance is the linearized one of a ratio of cluster totals (Cochran 1977, section 6.3), the degrees of freedom
    are the clusters less one, and the lower end is at least 0. Without any event no variance can be seen: the upper
    end is then the exact Poisson one, as if each cluster's rows were a single one. With a single cluster there is
    no interval.
    """
    method = "ratio of sums, cluster-robust t"
    top, bottom = _cluster_sums(clusters, events, exposures)
    n, n_clusters = float(bottom.sum()), int((bottom > 0).sum())
    if n == 0:
        return Estimate(None, None, None, 0, 0, method)
    estimate = float(top.sum()) / n
    half = _half_width(top, bottom, confidence)
    if estimate == 0:
        rows_a_cluster = len(events) / n_clusters
        highest = -math.log((1 - confidence) / 2) * rows_a_cluster / n
        return Estimate(0.0, 0.0, per * highest, round(n), n_clusters, "no event, Poisson on clusters")
    if half is None:
        return Estimate(per * estimate, None, None, round(n), n_clusters, method)
    low, high = max(estimate - half, 0.0), estimate + half
    return Estimate(per * estimate, per * low, per * high, round(n), n_clusters, method)


def mean(values: Values, clusters: Clusters, *, confidence: float) -> Estimate:
    """The mean over rows, with a cluster-robust t interval as in `rate`; no interval with a single cluster."""
    method = "mean, cluster-robust t"
    top, bottom = _cluster_sums(clusters, values, np.ones(len(values)))
    n = int(bottom.sum())
    if n == 0:
        return Estimate(None, None, None, 0, 0, method)
    estimate = float(top.sum()) / n
    half = _half_width(top, bottom, confidence)
    if half is None:
        return Estimate(estimate, None, None, n, len(bottom), method)
    return Estimate(estimate, estimate - half, estimate + half, n, len(bottom), method)


def paired_difference(
    numerators: Values,
    denominators: Values,
    baseline_numerators: Values,
    baseline_denominators: Values,
    clusters: Clusters,
    *,
    confidence: float,
    resamples: int,
    seed: int,
    is_share: bool = True,
    per: float = 1.0,
) -> Difference:
    """A condition's ratio of sums minus its baseline's, over the same rows.

    Interval: percentiles of a bootstrap over clusters (Davison and Hinkley 1997, section 3.8). Where every resample
    gives the same difference, that of a share may still be off by the upper Wilson bound for 0 of so many clusters,
    and that of a rate has no interval.

    p-value: two-sided, by sign flips over clusters. What is flipped is a cluster's contribution
    u = (n1 - R d1) / D1 - (n0 - R d0) / D0, where R is the ratio of both conditions together; the contributions sum
    to the difference, and with equal denominators they are the differences of the cluster's shares, for which the test
    is exact. Up to `MOST_EXACT_FLIPS` contributions other than 0 all flips are gone through; above, ``resamples`` flips
    are drawn and p = (1 + k) / (1 + resamples) (Phipson and Smyth 2010). p = 1 if all contributions are 0.

    A ratio without a denominator in the condition or in the baseline has neither difference nor p-value. ``per``
    multiplies the difference and its interval.
    """
    n1, d1, n0, d0 = sums = _cluster_sums(
        clusters, numerators, denominators, baseline_numerators, baseline_denominators
    )
    contributing = int(((d1 > 0) | (d0 > 0)).sum())
    n_pairs = len(numerators)
    if d1.sum() == 0 or d0.sum() == 0:
        return Difference(None, None, None, None, n_pairs, contributing, "nothing to compare")
    difference = float(n1.sum() / d1.sum() - n0.sum() / d0.sum())
    ratio = (n1.sum() + n0.sum()) / (d1.sum() + d0.sum())
    contributions = (n1 - ratio * d1) / d1.sum() - (n0 - ratio * d0) / d0.sum()
    p_value, flips = _sign_flip_p(contributions, resamples, seed)
    interval = _bootstrap_interval(np.stack(sums, axis=1), confidence, resamples, seed)
    method = f"cluster bootstrap; {flips} sign flips"
    if interval is None:
        return Difference(per * difference, None, None, p_value, n_pairs, contributing, method)
    low, high = interval
    if low == high:
        method = f"no variance, Wilson on clusters; {flips} sign flips"
        if not is_share:
            return Difference(per * difference, None, None, p_value, n_pairs, contributing, method)
        squared = stats.norm.ppf((1 + confidence) / 2) ** 2
        margin = float(squared / (contributing + squared))
        low, high = max(difference - margin, -1.0), min(difference + margin, 1.0)
    return Difference(per * difference, per * low, per * high, p_value, n_pairs, contributing, method)


def sign_flip_p(values: Values, clusters: Clusters, *, resamples: int, seed: int) -> tuple[float, str]:
    """Two-sided p-value of a mean against 0 by sign flips over clusters as in `paired_difference`, and how it was made.

    What is flipped is a cluster's sum: rows of one cluster go together.
    """
    (sums,) = _cluster_sums(clusters, values)
    p_value, flips = _sign_flip_p(sums, resamples, seed)
    return p_value, f"{flips} sign flips"


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Holm 1979) over the p-values that are there; None stays None.

    Written out, and tested against statsmodels, because its `multipletests` collects garbage at every call, which
    takes a tenth of a second beside a loaded model.
    """
    given = np.array([p for p in p_values if p is not None], dtype=np.float64)
    order = np.argsort(given)
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1.0)
    remaining = iter(corrected.tolist())
    return [None if p is None else next(remaining) for p in p_values]


def median_time_to_first_event(
    times: Values, observed: Values, clusters: Clusters, *, confidence: float, resamples: int, seed: int
) -> Estimate:
    """Kaplan-Meier median of the time to an event, with percentiles of a bootstrap over clusters.

    ``times`` are positive; a row with ``observed`` false is censored at its time. The median is the first time at which
    at most half survives, None where the data never get there. An end of the interval is None where that end's
    resample does not get there; with a single cluster there is no interval.
    """
    method = "Kaplan-Meier, cluster bootstrap"
    at, seen = np.asarray(times, dtype=np.float64), np.asarray(observed, dtype=bool)
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    if not len(at) == len(seen) == len(index):
        raise ValueError("times, observed and clusters must have one value a row")
    if not seen.any():
        return Estimate(None, None, None, len(at), len(labels), method)
    curve = SurvfuncRight(at, seen.astype(int))
    steps = np.asarray([curve.surv_times, curve.surv_prob], dtype=np.float64)
    median = _first_at_half(steps[0], steps[1:])[0]
    low = high = math.inf
    if len(labels) > 1:
        event_times = np.unique(at[seen])
        events, at_risk = np.zeros((2, len(labels), len(event_times)))
        np.add.at(events, (index[seen], np.searchsorted(event_times, at[seen])), 1)
        np.add.at(at_risk, index, at[:, np.newaxis] >= event_times)
        weights = _bootstrap_weights(len(labels), resamples, seed)
        medians = np.concatenate(
            [
                _first_at_half(event_times, _survival(part @ events, part @ at_risk))
                for part in np.array_split(weights, math.ceil(resamples / _RESAMPLES_AT_ONCE))
            ]
        )
        # Medians that were not reached are infinite, so the ends must be resamples and not lie between two.
        low, high = np.quantile(medians, _tails(confidence), method="inverted_cdf")
    ends = [None if math.isinf(value) else float(value) for value in (median, low, high)]
    return Estimate(ends[0], ends[1], ends[2], len(at), len(labels), method)


def _cluster_sums(clusters: Clusters, *columns: Values) -> tuple[_Floats, ...]:
    """Sums of each column by cluster, in the order of the cluster labels; each of shape [clusters]."""
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if any(array.shape != index.shape for array in arrays):
        raise ValueError("every row needs a cluster and one value in each column")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("a value is not finite")
    if any((array < 0).any() for array in arrays[1::2]):
        raise ValueError("a denominator is below 0")
    return tuple(np.bincount(index, array, len(labels)).astype(np.float64) for array in arrays)


def _half_width(top: _Floats, bottom: _Floats, confidence: float) -> float | None:
    used = bottom > 0
    n_clusters = int(used.sum())
    if n_clusters < 2:
        return None
    n = float(bottom.sum())
    residuals = top[used] - float(top.sum()) / n * bottom[used]
    variance = n_clusters / (n_clusters - 1) * float(residuals @ residuals) / n**2
    return float(stats.t.ppf((1 + confidence) / 2, n_clusters - 1)) * math.sqrt(variance)


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2


@lru_cache(maxsize=4)
def _bootstrap_weights(n_clusters: int, resamples: int, seed: int) -> _Floats:
    """How often each cluster is drawn in each resample: [resamples, clusters]. Kept, as cells share their problems."""
    draws = np.random.default_rng([seed, 0]).integers(0, n_clusters, (resamples, n_clusters))
    flat = (draws + n_clusters * np.arange(resamples)[:, np.newaxis]).ravel()
    weights = np.bincount(flat, minlength=resamples * n_clusters).reshape(resamples, n_clusters).astype(np.float64)
    weights.setflags(write=False)
    return weights


@lru_cache(maxsize=4)
def _sampled_signs(n_clusters: int, resamples: int, seed: int) -> _Floats:
    """Random signs: [resamples, clusters]."""
    signs = 1.0 - 2.0 * np.random.default_rng([seed, 1]).integers(0, 2, (resamples, n_clusters)).astype(np.float64)
    signs.setflags(write=False)
    return signs


@lru_cache(maxsize=MOST_EXACT_FLIPS + 1)
def _all_signs(n_clusters: int) -> _Floats:
    """All choices of signs in which the first is +: the other half mirrors them. [2^(clusters - 1), clusters]."""
    bits = (np.arange(2 ** (n_clusters - 1))[:, np.newaxis] >> np.arange(n_clusters)) & 1
    return np.roll(1.0 - 2.0 * bits.astype(np.float64), 1, axis=1)


def _sign_flip_p(contributions: _Floats, resamples: int, seed: int) -> tuple[float, str]:
    """The p-value, and how the flips were made: exact or sampled."""
    # Rounding must not make a difference of a contribution that is 0, nor of two flips that tie.
    rounding = 1e-9 * float(np.abs(contributions).max(initial=0.0))
    other_than_zero = np.flatnonzero(np.abs(contributions) > rounding)
    if len(other_than_zero) == 0:
        return 1.0, "exact"
    exact = len(other_than_zero) <= MOST_EXACT_FLIPS
    signs = _all_signs(len(other_than_zero)) if exact else _sampled_signs(len(contributions), resamples, seed)
    flipped = signs @ (contributions[other_than_zero] if exact else contributions)
    as_extreme = int((np.abs(flipped) >= abs(float(contributions.sum())) - rounding).sum())
    return (as_extreme / len(signs), "exact") if exact else ((1 + as_extreme) / (1 + resamples), "sampled")


def _bootstrap_interval(sums: _Floats, confidence: float, resamples: int, seed: int) -> tuple[float, float] | None:
    """Percentile interval of the difference of two ratios, from the sums n1, d1, n0, d0: [clusters, 4]."""
    n1, d1, n0, d0 = (_bootstrap_weights(len(sums), resamples, seed) @ sums).T
    defined = (d1 > 0) & (d0 > 0)
    if len(sums) < 2 or defined.mean() < _LEAST_DEFINED:
        return None
    differences = n1[defined] / d1[defined] - n0[defined] / d0[defined]
    low, high = np.quantile(differences, _tails(confidence))
    if differences.max() - differences.min() < 1e-12:  # equal but for rounding
        return float(low), float(low)
    return float(low), float(high)


def _survival(events: _Floats, at_risk: _Floats) -> _Floats:
    """Kaplan-Meier survival after each event time: [resamples, times]."""
    hazard = np.divide(events, at_risk, out=np.zeros_like(events), where=at_risk > 0)
    return np.cumprod(1.0 - hazard, axis=1, dtype=np.float64)


def _first_at_half(times: _Floats, survival: _Floats) -> _Floats:
    """The first time at which at most half survives, infinite where it is not reached: [resamples]."""
    reached = survival <= 0.5 + 1e-12  # a product of fractions that equals a half may round above it
    return np.where(reached.any(axis=1), times[reached.argmax(axis=1)], np.float64(math.inf))
