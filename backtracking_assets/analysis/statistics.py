"""Estimates with uncertainty for clustered data: the samples of one problem are not independent draws.

Every function takes one value a row and the cluster (problem) of each row; no order of rows is assumed, and the same
rows give the same figures in any order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.proportion import proportion_confint

from backtracking_assets.analysis.paired_differences import Difference, Pair, paired_differences
from backtracking_assets.analysis.quantiles import normal_quantile, t_quantile, t_quantile_at, tails
from backtracking_assets.analysis.resampling import (
    LEAST_DEFINED,
    bootstrap_weights,
    resampled_columns,
    sign_flip_p_values,
)

Values = Sequence[float] | npt.NDArray[np.number] | npt.NDArray[np.bool_]
Clusters = Sequence[str] | npt.NDArray
_Floats = npt.NDArray[np.float64]

_TIMES_AT_ONCE = 16


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


def share(numerators: Values, denominators: Values, clusters: Clusters, *, confidence: float) -> Estimate:
    """A share as a ratio of sums, with a Wilson interval on the effective sample size.

    The effective size is n over the design effect (Kish 1965, section 8.2), whose variance is the linearized one of a
    ratio of cluster totals; as that variance is estimated, t takes the place of z (Korn and Graubard 1998, Survey
    Methodology 24(2), 193-201; degrees of freedom: `quantiles.t_quantile`). It is kept between the effective number of clusters,
    (sum d)^2 / sum d^2 over cluster sizes d, which is what fully alike samples would leave, and n. At 0% and 100% no
    variance can be seen, and the lower bound is taken. Wilson on an effective size: Dean and Pagano 2015, J. Surv.
    Stat. Methodol. 3(4), 484-503.

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
        # In Wilson's formula a size times (z / t)^2 puts t in the place of z.
        ratio = normal_quantile(confidence) / t_quantile(confidence, (top - p * bottom)[bottom > 0])
        effective = max(min(p * (1 - p) / variance, n) * ratio**2, fewest)
    low, high = np.asarray(proportion_confint(p * effective, effective, alpha=1 - confidence, method="wilson"))
    # The bounds of Wilson hold p, but for rounding at 0% and 100%.
    return Estimate(p, min(max(float(low), 0.0), p), max(min(float(high), 1.0), p), round(n), n_clusters, method)


def rate(events: Values, exposures: Values, clusters: Clusters, *, per: float, confidence: float) -> Estimate:
    """Events for every ``per`` units of exposure as a ratio of sums, with a score interval on the effective events.

    The variance is the linearized one of a ratio of cluster totals (Cochran 1977, section 6.3), with k = estimate^2 /
    variance the effective number of events. The interval holds the rates x at which (estimate - x)^2 is at most t^2
    times a Poisson's variance of as many events, x estimate / k (Wilson's construction; for a plain Poisson count
    Barker 2002, The American Statistician 56(2), 85-89), which reaches further up than down where events are few.
    Degrees of freedom: `quantiles.t_quantile`. Without any event no variance can be seen: the upper end is then the exact Poisson
    one, as if each cluster's rows were a single one. With a single cluster there is no interval.
    """
    method = "ratio of sums, score on effective events"
    top, bottom = _cluster_sums(clusters, events, exposures)
    n, n_clusters = float(bottom.sum()), int((bottom > 0).sum())
    if n == 0:
        return Estimate(None, None, None, 0, 0, method)
    estimate = float(top.sum()) / n
    if estimate == 0:
        rows_a_cluster = len(events) / n_clusters
        highest = -math.log((1 - confidence) / 2) * rows_a_cluster / n
        return Estimate(0.0, 0.0, per * highest, round(n), n_clusters, "no event, Poisson on clusters")
    if n_clusters < 2:
        return Estimate(per * estimate, None, None, round(n), n_clusters, method)
    residuals = (top - estimate * bottom)[bottom > 0]
    # The square of the relative error is one over the effective number of events.
    relative = n_clusters / (n_clusters - 1) * float(residuals @ residuals) / float(top.sum()) ** 2
    t = t_quantile(confidence, residuals)
    center, half = 1 + t**2 * relative / 2, t * math.sqrt(relative + (t * relative) ** 2 / 4)
    low, high = per * estimate * (center - half), per * estimate * (center + half)
    return Estimate(per * estimate, low, high, round(n), n_clusters, method)


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

    Interval: percentiles of a bootstrap over clusters (Davison and Hinkley 1997, section 3.8), expanded so that the
    normal tail becomes that of t (Hesterberg 2015, The American Statistician 69(4), 371-386; degrees of freedom:
    `quantiles.t_quantile`). Where every resample gives the same difference, that of a share may still be off by the upper Wilson
    bound for 0 of so many clusters, and that of a rate has no interval.

    p-value: two-sided, by sign flips over clusters. What is flipped is a cluster's contribution
    u = (n1 - R d1) / D1 - (n0 - R d0) / D0, where R is the ratio of both conditions together; the contributions sum
    to the difference, and with equal denominators they are the differences of the cluster's shares, for which the test
    is exact. Up to `MOST_EXACT_FLIPS` contributions other than 0 all flips are gone through; above, ``resamples`` flips
    are drawn and p = (1 + k) / (1 + resamples) (Phipson and Smyth 2010). p = 1 if all contributions are 0.

    A ratio without a denominator in the condition or in the baseline has neither difference nor p-value. ``per``
    multiplies the difference and its interval.
    """
    columns = _cluster_sums(clusters, numerators, denominators, baseline_numerators, baseline_denominators)
    n1, d1, n0, d0 = resampled_columns(np.stack(columns), resamples=resamples, seed=seed)
    pair = Pair(n1, d1, n0, d0, len(numerators), is_share, per)
    return paired_differences([pair], confidence=confidence, resamples=resamples, seed=seed)[0]


def quotient(
    numerators: Values,
    denominators: Values,
    other_numerators: Values,
    other_denominators: Values,
    clusters: Clusters,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Estimate:
    """One ratio of sums over another one of the same rows, such as how many times as accurate one group is.

    Interval: percentiles of a bootstrap over clusters. Resamples in which the other ratio is 0 count as infinite, so an
    end that lies among them is None; where more than a few resamples give 0 over 0 or lack a group, there is no
    interval. None where a group is missing or the other ratio is 0.
    """
    method = "quotient of ratios, cluster bootstrap"
    sums = np.stack(_cluster_sums(clusters, numerators, denominators, other_numerators, other_denominators), axis=1)
    n, n_clusters = round(float(sums[:, [1, 3]].sum())), int((sums[:, [1, 3]].sum(axis=1) > 0).sum())
    estimate = float(_quotients(sums.sum(axis=0)[np.newaxis])[0])
    if not math.isfinite(estimate):
        return Estimate(None, None, None, n, n_clusters, method)
    found = _quotients(bootstrap_weights(len(sums), resamples, seed) @ sums)
    defined = ~np.isnan(found)
    if len(sums) < 2 or defined.mean() < LEAST_DEFINED:
        return Estimate(estimate, None, None, n, n_clusters, method)
    low, high = np.quantile(found[defined], tails(confidence), method="inverted_cdf")
    ends = [None if math.isinf(end) else float(end) for end in (low, high)]
    return Estimate(estimate, ends[0], ends[1], n, n_clusters, method)


def _quotients(sums: _Floats) -> _Floats:
    """(n1 / d1) / (n0 / d0) of each row n1, d1, n0, d0: infinite where only n0 is 0, NaN where it says nothing."""
    n1, d1, n0, d0 = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((d1 > 0) & (d0 > 0), (n1 * d0) / (n0 * d1), np.float64(math.nan))


def sign_flip_p(values: Values, clusters: Clusters, *, resamples: int, seed: int) -> tuple[float, str]:
    """Two-sided p-value of a mean against 0 by sign flips over clusters as in `paired_difference`, and how it was made.

    What is flipped is a cluster's sum: rows of one cluster go together.
    """
    (sums,) = _cluster_sums(clusters, values)
    ((p_value, flips),) = sign_flip_p_values([sums], resamples=resamples, seed=seed)
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
    median = _first_at_half(steps[0], steps[1])
    low = high = math.inf
    if len(labels) > 1:
        event_times = np.unique(at[seen])
        events, at_risk = np.zeros((2, len(labels), len(event_times)))
        np.add.at(events, (index[seen], np.searchsorted(event_times, at[seen])), 1)
        np.add.at(at_risk, index, at[:, np.newaxis] >= event_times)
        medians = _resampled_medians(event_times, events, at_risk, resamples, seed)
        # Medians that were not reached are infinite, so the ends must be resamples and not lie between two.
        low, high = np.quantile(medians, tails(confidence), method="inverted_cdf")
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
    return t_quantile_at(confidence, n_clusters - 1) * math.sqrt(variance)


def _resampled_medians(event_times: _Floats, events: _Floats, at_risk: _Floats, resamples: int, seed: int) -> _Floats:
    """The first event time at which at most half survives in each resample, infinite where none is: [resamples].

    `events` and `at_risk` are counts by cluster and time: [clusters, times]. Time by time, as the median mostly comes
    early and what survives after it is not asked.
    """
    medians, survival = np.full(resamples, math.inf), np.ones(resamples)
    for begin in range(0, len(event_times), _TIMES_AT_ONCE):
        part = slice(begin, begin + _TIMES_AT_ONCE)
        columns = np.concatenate([events[:, part], at_risk[:, part]], axis=1).T
        drawn = [column.drawn for column in resampled_columns(columns, resamples=resamples, seed=seed)]
        half = len(drawn) // 2
        for time, happened, risked in zip(event_times[part], drawn[:half], drawn[half:], strict=True):
            hazard = np.divide(happened, risked, out=np.zeros(resamples), where=risked > 0)
            survival *= 1.0 - hazard
            # A product of fractions that equals a half may round above it.
            medians[(survival <= 0.5 + 1e-12) & (medians == math.inf)] = time
        if math.isfinite(medians.max()):
            break
    return medians


def _first_at_half(times: _Floats, survival: _Floats) -> float:
    """The first time at which at most half survives, infinite where it is not reached."""
    reached = survival <= 0.5 + 1e-12
    return float(times[reached.argmax()]) if reached.any() else math.inf
