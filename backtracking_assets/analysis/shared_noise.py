"""What noise shared with the baseline buys: the variance of a paired difference over that with independent noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backtracking_assets.analysis.quantiles import percentiles, tails
from backtracking_assets.analysis.resampling import resampled_sums
from backtracking_assets.analysis.statistics import Clusters, Values

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class VarianceRatio:
    """Variance of the difference with shared noise over that with independent noise, with its interval."""

    ratio: float | None
    """Below 1 where sharing helps; None where it cannot be estimated."""
    low: float | None
    high: float | None


def variance_ratio(
    numerators: Values,
    denominators: Values,
    baseline_numerators: Values,
    baseline_denominators: Values,
    clusters: Clusters,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> VarianceRatio:
    """Compare the noise that a cell shares with its baseline with independent noise, from the paired rows alone.

    A row's contribution to the difference of two ratios of sums is e1 - e0 with e1 = (n1 - R1 d1) / sum d1 and e0
    likewise. With shared noise the variance is that over clusters, V = sum (E1 - E0)^2 with E the cluster's sums. What
    the noise adds to it is the covariance of e1 and e0 of the *same* sample beyond that of *different* samples of the
    same cluster, which are independent given the problem. So with independent noise, in clusters of m rows,

        V' = V + 2 sum over clusters [ sum_i e1_i e0_i - 1 / (m - 1) sum_(i != j) e1_i e0_j ]

    has the same expectation as if the cell had been sampled anew. The ratio is V / V'. Effects that differ between
    problems are in both, so it does not fall to 0 however alike the noise. Interval: percentiles of a bootstrap over
    clusters, with R1 and R0 held fixed. Without a denominator, with a cluster of a single row, or where V' is not above
    0 (no difference anywhere), there is no ratio.
    """
    columns = numerators, denominators, baseline_numerators, baseline_denominators
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    n1, d1, n0, d0 = (np.asarray(column, dtype=np.float64) for column in columns)
    again = {"confidence": confidence, "resamples": resamples, "seed": seed}
    return variance_ratios([(n1, d1, n0, d0)], index, len(labels), **again)[0]


def variance_ratios(
    pairs: Sequence[tuple[_Floats, _Floats, _Floats, _Floats]],
    index: npt.NDArray[np.intp],
    n_clusters: int,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> list[VarianceRatio]:
    """`variance_ratio` of many pairs over the same rows, whose cluster is given by its number.

    Each pair is numerators, denominators, and those of the baseline: [rows].
    """
    sizes = np.bincount(index, minlength=n_clusters)
    given = {number: found for number, pair in enumerate(pairs) if (found := _variances(*pair, index, sizes))}
    ratios = dict.fromkeys(range(len(pairs)), VarianceRatio(None, None, None))
    if given:
        parts = resampled_sums(
            np.concatenate([np.stack(own) for own in given.values()]), resamples=resamples, seed=seed
        )
        for place, (number, (shared, independent)) in enumerate(given.items()):
            ratio, (of_shared, of_independent) = (
                float(shared.sum() / independent.sum()),
                parts[2 * place : 2 * place + 2],
            )
            if n_clusters < 2 or not (of_independent > 0).all():
                ratios[number] = VarianceRatio(ratio, None, None)
            else:
                ratios[number] = VarianceRatio(ratio, *percentiles(of_shared / of_independent, tails(confidence)))
    return list(ratios.values())


def _variances(
    n1: _Floats,
    d1: _Floats,
    n0: _Floats,
    d0: _Floats,
    index: npt.NDArray[np.intp],
    sizes: npt.NDArray[np.intp],
) -> tuple[_Floats, _Floats] | None:
    """What each cluster adds to the variance with shared and with independent noise; None where there is no ratio."""
    if d1.sum() == 0 or d0.sum() == 0 or sizes.min(initial=2) < 2:
        return None
    own = (n1 - n1.sum() / d1.sum() * d1) / d1.sum()
    other = (n0 - n0.sum() / d0.sum() * d0) / d0.sum()
    own_sums, other_sums, same = (np.bincount(index, values) for values in (own, other, own * other))
    shared = (own_sums - other_sums) ** 2
    different = (own_sums * other_sums - same) / (sizes - 1)
    independent = shared + 2 * (same - different)
    # Relative to what either condition varies: a sum that cancels but for rounding is no variance.
    if independent.sum() <= 1e-9 * float((own_sums**2 + other_sums**2).sum()):
        return None
    return shared, independent
