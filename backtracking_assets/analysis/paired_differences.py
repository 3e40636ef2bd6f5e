"""Differences of ratios of sums between a condition and its baseline, many over the same clusters at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from backtracking_assets.analysis.quantiles import normal_quantile, percentiles, t_quantile, tails
from backtracking_assets.analysis.resampling import LEAST_DEFINED, Column, sign_flip_p_values

_Floats = npt.NDArray[np.float64]


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


@dataclass(frozen=True, eq=False)
class Pair:
    """What one difference is computed from: the columns of a condition and of its baseline, over the same clusters."""

    numerators: Column
    denominators: Column
    baseline_numerators: Column
    baseline_denominators: Column
    n_pairs: int
    is_share: bool = True
    per: float = 1.0

    @property
    def sums(self) -> tuple[_Floats, _Floats, _Floats, _Floats]:
        """Sums by cluster, in the order of the fields; each of shape [clusters]."""
        return (
            self.numerators.sums,
            self.denominators.sums,
            self.baseline_numerators.sums,
            self.baseline_denominators.sums,
        )


def paired_differences(pairs: Sequence[Pair], *, confidence: float, resamples: int, seed: int) -> list[Difference]:
    """The difference of each pair, its interval and p-value, as `statistics.paired_difference` describes them.

    No difference depends on which others are asked for beside it.
    """
    contributions = {number: _contributions(pair) for number, pair in enumerate(pairs) if _has_difference(pair)}
    p_values = sign_flip_p_values(list(contributions.values()), resamples=resamples, seed=seed)
    of_number = dict(zip(contributions, p_values, strict=True))
    return [
        _difference(pair, contributions[number], *of_number[number], confidence=confidence)
        if number in contributions
        else Difference(None, None, None, None, pair.n_pairs, int(_contributing(pair).sum()), "nothing to compare")
        for number, pair in enumerate(pairs)
    ]


def _has_difference(pair: Pair) -> bool:
    return pair.denominators.sums.sum() > 0 and pair.baseline_denominators.sums.sum() > 0


def _contributing(pair: Pair) -> npt.NDArray[np.bool_]:
    return (pair.denominators.sums > 0) | (pair.baseline_denominators.sums > 0)


def _contributions(pair: Pair) -> _Floats:
    """What each cluster contributes to the difference: [clusters]."""
    n1, d1, n0, d0 = pair.sums
    ratio = (n1.sum() + n0.sum()) / (d1.sum() + d0.sum())
    return (n1 - ratio * d1) / d1.sum() - (n0 - ratio * d0) / d0.sum()


def _difference(pair: Pair, contributions: _Floats, p_value: float, flips: str, *, confidence: float) -> Difference:
    n1, d1, n0, d0 = pair.sums
    per, used = pair.per, _contributing(pair)
    n_clusters = int(used.sum())
    difference = float(n1.sum() / d1.sum() - n0.sum() / d0.sum())
    expanded = 2 * float(special.ndtr(t_quantile(confidence, contributions[used]))) - 1
    interval = _bootstrap_interval(pair, expanded)
    method = f"cluster bootstrap; {flips} sign flips"
    if interval is None:
        return Difference(per * difference, None, None, p_value, pair.n_pairs, n_clusters, method)
    low, high = interval
    if low == high:
        method = f"no variance, Wilson on clusters; {flips} sign flips"
        if not pair.is_share:
            return Difference(per * difference, None, None, p_value, pair.n_pairs, n_clusters, method)
        squared = normal_quantile(confidence) ** 2
        margin = squared / (n_clusters + squared)
        low, high = max(difference - margin, -1.0), min(difference + margin, 1.0)
    return Difference(per * difference, per * low, per * high, p_value, pair.n_pairs, n_clusters, method)


def _bootstrap_interval(pair: Pair, confidence: float) -> tuple[float, float] | None:
    """Percentile interval of the difference of the two ratios."""
    n1, d1 = pair.numerators.drawn, pair.denominators.drawn
    n0, d0 = pair.baseline_numerators.drawn, pair.baseline_denominators.drawn
    defined = (d1 > 0) & (d0 > 0)
    if len(pair.denominators.sums) < 2 or defined.mean() < LEAST_DEFINED:
        return None
    if not defined.all():
        n1, d1, n0, d0 = n1[defined], d1[defined], n0[defined], d0[defined]
    differences = n1 / d1 - n0 / d0
    low, high = percentiles(differences, tails(confidence))
    if differences.max() - differences.min() < 1e-12:  # equal but for rounding
        return low, low
    return low, high
