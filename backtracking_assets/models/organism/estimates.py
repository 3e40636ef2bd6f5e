"""Means and rates with their 95% intervals."""

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

_NORMAL_975 = 1.959964


class Estimate(BaseModel):
    """A mean or a rate with its 95% interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of independent values, with a normal interval; raises ValueError for fewer than two."""
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval needs at least 2 values, there are {count}")
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    margin = _NORMAL_975 * math.sqrt(variance / count)
    return Estimate(value=round(mean, 4), low=round(mean - margin, 4), high=round(mean + margin, 4))


def rate_estimate(hits: Sequence[int], trials: Sequence[int]) -> Estimate:
    """Return the rate sum(hits) / sum(trials), each pair of counts being one cluster (here: one problem).

    The interval is Wilson's on the effective number of trials, which is the one that gives a binomial rate the
    variance of the ratio estimator (Cochran, Sampling Techniques, section 6.3), between the number of clusters and
    the number of trials. Raises ValueError for fewer than two clusters and where nothing was tried.
    """
    clusters, total = sum(trial > 0 for trial in trials), sum(trials)
    if clusters < 2:
        raise ValueError(f"an interval needs trials in at least 2 clusters, there are {clusters}")
    rate = sum(hits) / total
    squares = math.fsum((hit - rate * trial) ** 2 for hit, trial in zip(hits, trials, strict=True))
    variance = squares * clusters / (clusters - 1) / total**2
    # A rate of 0 or 1 shows no variance: count each cluster once.
    effective = min(total, rate * (1 - rate) / variance) if variance > 0 else clusters
    shrunk = _NORMAL_975**2 / effective
    center = (rate + shrunk / 2) / (1 + shrunk)
    margin = _NORMAL_975 * math.sqrt(rate * (1 - rate) / effective + shrunk / (4 * effective)) / (1 + shrunk)
    return Estimate(
        value=round(rate, 4),
        low=round(max(0.0, center - margin), 4),
        high=round(min(1.0, center + margin), 4),
    )
