"""Backtracking against accuracy within the baseline: an association in each condition by itself, never over several.

Conditions differ in both at once, so over pooled conditions the two would go together or apart for that reason alone
(Simpson 1951). Problems differ in both as well; the comparison within problems takes that out.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from backtracking_assets.analysis.counts import CellRows, joined
from backtracking_assets.analysis.statistics import Difference, Estimate, holm, paired_difference, quotient, share
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.phase1_records import BACKTRACKING_ACCURACY

BACKTRACKING_VERSION = "1"
"""Raised whenever a change of this module changes a figure or an interval."""

Completions = Literal["all", "answered"]
"""All completions, where one without an answer is not right; or only those with an answer."""

_COMPARED = ("difference", "difference_within")
_Floats = npt.NDArray[np.float64]


def backtracking_against_accuracy(
    variants: Mapping[str, CellRows],
    *,
    problem_set_digest: str,
    statistics: Statistics,
    inputs_digest: str,
    run_id: str,
) -> pa.Table:
    """Accuracy with and without a strict trigger in the baseline of each prompt variant, each by itself.

    Returns:
        A table with the schema BACKTRACKING_ACCURACY: variants in the order given, all completions before those with an
        answer, figures in the order of `measures.BACKTRACKING_FIGURES`.

    Raises:
        BacktrackingError: rows of several conditions are given as one, an intervention acted on them, or no variant has
            completions with and without a trigger.
    """
    rows: list[dict[str, Any]] = []
    for variant, given in variants.items():
        frame = baseline_frame(variant, given)
        fixed = {
            "variant": variant,
            "fingerprint": frame["fingerprint"].iloc[0],
            "problem_set_digest": problem_set_digest,
            "rules_digest": frame["rules_digest"].iloc[0],
            "statistics_digest": statistics_digest(statistics),
            "inputs_digest": inputs_digest,
            "run_id": run_id,
        }
        for completions in ("all", "answered"):
            own = frame if completions == "all" else frame[frame["answered"]]
            rows += [{**row, **fixed, "completions": completions} for row in _figures(own, statistics)]
    if not any(row["estimate"] is not None for row in rows if row["figure"] == "difference"):
        raise BacktrackingError(
            f"There is nothing to compare in {', '.join(variants) or 'no prompt variant'}: of each, all completions or "
            "none have a strict trigger; nothing was stored."
        )
    for completions in ("all", "answered"):
        for figure in _COMPARED:
            family = [row for row in rows if row["figure"] == figure and row["completions"] == completions]
            for row, corrected in zip(family, holm([row["p_value"] for row in family]), strict=True):
                row["p_holm"] = corrected
    return pa.Table.from_pylist(rows, schema=BACKTRACKING_ACCURACY)


def baseline_frame(variant: str, rows: CellRows) -> pd.DataFrame:
    """Completions and detections of one baseline condition, joined by their key; see `counts.joined`.

    Raises:
        BacktrackingError: the rows are of several conditions, or an intervention acted on them.
    """
    fingerprints = set(rows.completions["fingerprint"].to_pylist()) | set(rows.detections["fingerprint"].to_pylist())
    if len(fingerprints) > 1:
        raise BacktrackingError(
            f"Backtracking against accuracy of prompt variant {variant} was asked of rows of {len(fingerprints)} "
            "conditions; pooled conditions differ in both at once, so give each condition by itself."
        )
    if acted := sum(n_firings > 0 for n_firings in rows.completions["n_firings"].to_pylist()):
        raise BacktrackingError(
            f"An intervention acted on {acted:,} completions given as the baseline of prompt variant {variant}; "
            "backtracking against accuracy is asked of the baseline alone."
        )
    return joined(rows)


def _figures(frame: pd.DataFrame, statistics: Statistics) -> list[dict[str, Any]]:
    """Every figure of the completions of one condition, in the order of `measures.BACKTRACKING_FIGURES`."""
    clusters = frame["problem_id"].to_numpy()
    backtracks = frame["has_strict"].to_numpy(dtype=np.float64)
    correct = frame["correct"].to_numpy(dtype=np.float64)
    ones = np.ones(len(frame))

    def ratio(numerators: _Floats, denominators: _Floats) -> Estimate:
        return share(numerators, denominators, clusters, confidence=statistics.confidence)

    groups = (correct * backtracks, backtracks, correct * (1 - backtracks), 1 - backtracks)
    again = {"confidence": statistics.confidence, "resamples": statistics.resamples, "seed": statistics.seed}
    if not len(frame):
        empty = Estimate(None, None, None, 0, 0, "nothing to measure")
        return [
            _row(name, empty) for name in ("backtracking_rate", "accuracy", "accuracy_with", "accuracy_without")
        ] + [_row(name, empty) for name in ("difference", "lift", "difference_within")]
    return [
        _row("backtracking_rate", ratio(backtracks, ones)),
        _row("accuracy", ratio(correct, ones), correct.sum()),
        _row("accuracy_with", ratio(groups[0], groups[1]), groups[0].sum()),
        _row("accuracy_without", ratio(groups[2], groups[3]), groups[2].sum()),
        _compared("difference", paired_difference(*groups, clusters, **again)),
        _row("lift", quotient(*groups, clusters, **again)),
        _compared("difference_within", _within(frame, groups, again)),
    ]


def _within(frame: pd.DataFrame, groups: tuple[_Floats, ...], again: dict[str, Any]) -> Difference:
    """The mean over problems with completions of both kinds of the difference within the problem."""
    names = ["correct_with", "n_with", "correct_without", "n_without"]
    sums = pd.DataFrame(dict(zip(names, groups, strict=True))).groupby(frame["problem_id"].to_numpy()).sum()
    both = sums[(sums["n_with"] > 0) & (sums["n_without"] > 0)]
    if both.empty:
        return Difference(None, None, None, None, 0, 0, "no problem with completions of both kinds")
    ones = np.ones(len(both))
    # Each problem counts once, however many of its completions are of either kind.
    return paired_difference(
        (both["correct_with"] / both["n_with"]).to_numpy(),
        ones,
        (both["correct_without"] / both["n_without"]).to_numpy(),
        ones,
        both.index.to_numpy(),
        **again,
    )


def _row(figure: str, estimate: Estimate, n_correct: float | None = None) -> dict[str, Any]:
    return {
        "figure": figure,
        "n_correct": None if n_correct is None else round(n_correct),
        "estimate": estimate.estimate,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "n_problems": estimate.n_clusters,
        "method": estimate.method,
        "p_value": None,
        "p_holm": None,
    }


def _compared(figure: str, difference: Difference) -> dict[str, Any]:
    values = Estimate(
        difference.difference,
        difference.low,
        difference.high,
        difference.n_pairs,
        difference.n_clusters,
        difference.method,
    )
    return _row(figure, values) | {"p_value": difference.p_value}
