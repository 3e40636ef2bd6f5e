"""A layer subset against the control that only scales the odds of trigger words, where both say them equally often.

If accuracy and steps are then alike, the layers' effect on them is what saying the word less often does by itself.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from backtracking_assets.analysis.counts import CellRows, applies, cell_of, counts, joined
from backtracking_assets.analysis.quantiles import tails
from backtracking_assets.analysis.resampling import bootstrap_weights
from backtracking_assets.equal_rate_records import EqualRate, EqualRateOutcome, OutcomeVerdict
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.measures import MEASURES, Measure
from backtracking_assets.plan import BASELINE_SCALE

OUTCOMES = ("accuracy", "corrected_share", "wrong_step_share")
"""What is compared at equal rate; those that need steps only where there are steps."""

_LEAST_DEFINED = 0.95
"""Share of resamples in which every ratio must have a denominator."""
_Floats = npt.NDArray[np.float64]


def compare_at_equal_rate(
    cells: Sequence[CellRows],
    control: Sequence[CellRows],
    baseline: CellRows,
    *,
    rate_measure: str,
    statistics: Statistics,
) -> list[EqualRate]:
    """Compare each cell with the control's curve at the cell's own rate.

    The curve goes through the control's cells and the baseline, which is its point at scale 1, straight between
    neighboring scales; its rate is made to rise with the scale (running maximum). Intervals: percentiles of a
    bootstrap in which the problems are drawn once for the cell and the curve, the rate, the place on the curve and the
    outcomes being computed anew each time. With k outcomes, the difference "differs" if its 1 - alpha / k interval
    excludes 0 (Bonferroni), and is "equivalent" if its 1 - 2 alpha interval lies within the margin on both sides, which
    is two one-sided tests at alpha (Schuirmann 1987); all of them equivalent needs no correction (Berger 1982).

    Returns:
        One comparison for each cell, in the order given.

    Raises:
        BacktrackingError: a cell or the control was not asked the problems of the baseline, nothing is there of which
            the rate could be taken, or a measure has no denominator in too many resamples.
    """
    reference = joined(baseline)
    below = sorted(
        (rows for rows in control if cell_of(rows).scale < BASELINE_SCALE), key=lambda rows: cell_of(rows).scale
    )
    frames = [*map(joined, below), reference]
    scales = np.array([*(cell_of(rows).scale for rows in below), BASELINE_SCALE])
    if not below:
        raise BacktrackingError("The trigger control has no cell below scale 1; generate one.")
    found: list[EqualRate] = []
    for rows in cells:
        frame = joined(rows)
        for other in frames:
            _refuse_other_problems(rows, frame, other)
        found.append(_compare(rows, frame, frames, scales, MEASURES[rate_measure], statistics))
    return found


def _compare(
    rows: CellRows,
    frame: pd.DataFrame,
    curve: list[pd.DataFrame],
    scales: _Floats,
    rate_measure: Measure,
    statistics: Statistics,
) -> EqualRate:
    everything = [frame, *curve]
    names = [name for name in OUTCOMES if applies(MEASURES[name], everything)]
    measures = [rate_measure, *(MEASURES[name] for name in names)]
    # The first row of weights is the data themselves.
    n_problems = frame["problem_id"].nunique()
    drawn = bootstrap_weights(n_problems, statistics.resamples, statistics.seed)
    weights = np.vstack([np.ones((1, n_problems)), drawn])
    values = {measure.name: _ratios(measure, everything, weights) for measure in measures}
    rates = values[rate_measure.name]
    defined = {name: np.asarray(np.isfinite(value).all(axis=1)) for name, value in values.items()}
    named = [name for name in names if _is_defined(defined[name])]
    if not _is_defined(defined[rate_measure.name]) or not named:
        raise BacktrackingError(
            f"{rows.cell} cannot be compared at equal rate: “{rate_measure.label}” or every outcome has nothing to be "
            "counted in; take more problems."
        )
    own, climbing = rates[:, 0], np.maximum.accumulate(rates[:, 1:], axis=1)
    outside = (own < climbing[:, 0]) | (own > climbing[:, -1])
    lower, share_of_upper = _place(own, climbing)
    found = EqualRate(
        cell=cell_of(rows),
        rate_measure=rate_measure.name,
        rate=float(own[0]),
        curve=tuple(zip(scales.tolist(), rates[0, 1:].tolist(), strict=True)),
        scale=None if outside[0] else float(_between(np.tile(scales, (len(own), 1)), lower, share_of_upper)[0]),
        outside_share=float(outside[1:].mean()),
        margin=statistics.equivalence_margin,
        outcomes=(),
    )
    if found.scale is None:
        return found
    outcomes: list[EqualRateOutcome] = []
    for name in named:
        control = _between(values[name][:, 1:], lower, share_of_upper)
        usable = defined[name] & defined[rate_measure.name]
        outcomes.append(_outcome(name, values[name][:, 0], control, usable, len(named), statistics))
    return replace(found, outcomes=tuple(outcomes))


def _is_defined(defined: npt.NDArray[np.bool_]) -> bool:
    return bool(defined[0]) and float(defined.mean()) >= _LEAST_DEFINED


def _outcome(
    name: str,
    subset: _Floats,
    control: _Floats,
    defined: npt.NDArray[np.bool_],
    n_outcomes: int,
    statistics: Statistics,
) -> EqualRateOutcome:
    differences = subset - control
    resampled, alpha = differences[1:][defined[1:]], 1 - statistics.confidence
    low, high = np.quantile(resampled, tails(1 - alpha / n_outcomes))
    least, most = np.quantile(resampled, tails(1 - 2 * alpha))
    verdict: OutcomeVerdict = "undecided"
    if -statistics.equivalence_margin < least and most < statistics.equivalence_margin:
        verdict = "equivalent"
    elif low > 0 or high < 0:
        verdict = "differs"
    return EqualRateOutcome(
        name, float(subset[0]), float(control[0]), float(differences[0]), float(low), float(high), verdict
    )


def _ratios(measure: Measure, frames: Sequence[pd.DataFrame], weights: _Floats) -> _Floats:
    """The measure of each frame under each row of weights, NaN without a denominator: [weights, frames]."""
    columns: list[_Floats] = []
    for frame in frames:
        # Frames are in the order of their keys, so problems come in the same order in each.
        problem = np.unique(frame["problem_id"].to_numpy(), return_inverse=True)[1]
        top, bottom = (weights @ np.bincount(problem, values) for values in counts(measure, frame))
        columns.append(np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0))
    return np.stack(columns, axis=1)


def _place(rate: _Floats, climbing: _Floats) -> tuple[npt.NDArray[np.intp], _Floats]:
    """Where a rate lies on a curve of rates that rise: the point below it, and the share of the way to the next one.

    Beyond the ends, the end. Where a stretch of the curve is level, its upper end: the scale nearest the baseline.
    """
    last = climbing.shape[1] - 2
    lower = np.clip((climbing <= rate[:, np.newaxis]).sum(axis=1) - 1, 0, last)
    row = np.arange(len(rate))
    start, end = climbing[row, lower], climbing[row, lower + 1]
    width = np.where(end > start, end - start, 1.0)
    return lower, np.clip(np.where(end > start, (rate - start) / width, 1.0), 0.0, 1.0)


def _between(values: _Floats, lower: npt.NDArray[np.intp], share_of_upper: _Floats) -> _Floats:
    row = np.arange(len(values))
    return (1 - share_of_upper) * values[row, lower] + share_of_upper * values[row, lower + 1]


def _refuse_other_problems(rows: CellRows, frame: pd.DataFrame, other: pd.DataFrame) -> None:
    if set(frame["problem_id"]) != set(other["problem_id"]):
        raise BacktrackingError(
            f"{rows.cell} and the trigger control were asked different problems, so they cannot be compared at equal "
            "rate; generate both anew."
        )
