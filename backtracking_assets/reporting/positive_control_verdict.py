"""Whether the method finds what was planted: one answer for each of its three ways, and a sentence over them.

The rules are stated here and on the page, and the sentences are computed from the figures alone.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from backtracking_assets.reporting.formats import equals_p, join_names
from backtracking_assets.reporting.positive_control_contents import ControlResults, ScaledSubset

QUESTION = "Does the method find what was planted?"

LEAST_PRECISION = 0.5
"""Share of the first k components that must be true, where k are."""
MAIN_MODE = "zero"

RULES = (
    "The scan finds it if its ranking by the study's own criterion is better than a random order (p of the average "
    "precision at most one minus the confidence) and at least half of its first k components are among the k causal "
    "ones.",
    "Scaling at one position finds it if a subset that holds planted components lowers the onset token's probability, "
    "with its whole interval, and by more than every subset that holds none.",
    "The sweep finds it if each targeted subset that holds planted components and has random draws lowers the sweep's "
    "measure, with its whole interval, and by more than all of its draws.",
)


Ranking = tuple[str, str, str, str]
"""Measure, mode, what is ranked together, which truth."""


@dataclass(frozen=True)
class Way:
    """One of the method's ways to find a component."""

    name: str
    found: bool | None
    """None where it was not measured."""
    sentence: str


def ways(results: ControlResults) -> tuple[Way, Way, Way]:
    """The answers of the scan, of scaling at one position, and of the sweep."""
    return _scan(results), _one_position(results), _sweep(results)


def verdict(results: ControlResults) -> str:
    """One sentence over the three ways."""
    answers = ways(results)
    measured = [way for way in answers if way.found is not None]
    found = [way.name for way in measured if way.found]
    missed = [way.name for way in measured if not way.found]
    absent = [way.name for way in answers if way.found is None]
    after = f" Not measured yet: {join_names(absent)}." if absent else ""
    if not measured:
        return f"Nothing was measured.{after}"
    if not found:
        return f"The method does not find what was planted: neither does {' nor '.join(missed)}.{after}"
    if missed:
        return (
            f"The method finds what was planted in {len(found)} of {len(measured)} ways: by {join_names(found)}, "
            f"not by {join_names(missed)}.{after}"
        )
    ways_named = "in the one way that was measured" if len(found) == 1 else f"in all {len(found)} ways"
    return f"The method finds what was planted {ways_named}: by {join_names(found)}.{after}"


def ranking_figures(results: ControlResults) -> dict[Ranking, dict[str, dict[Hashable, Any]]]:
    """Rows of POSITIVE_CONTROL_FIGURES of the scan, by ranking and figure."""
    found: dict[Ranking, dict[str, dict[Hashable, Any]]] = {}
    for row in results.figures.to_dict("records"):
        if row["part"] == "scan":
            ranking = (str(row["subject"]), str(row["setting"]), str(row["kind"]), str(row["truth"]))
            found.setdefault(ranking, {})[str(row["figure"])] = row
    return found


def _scan(results: ControlResults) -> Way:
    name = "the scan's ranking"
    own = ranking_figures(results).get((results.criterion, MAIN_MODE, "all", "causal"))
    label = results.labels.get(results.criterion, results.criterion)
    if own is None:
        return Way(name, None, f"The scan has no ranking by {label}, or no planted component is causal.")
    precision, first = own["average_precision"], float(own["precision_at_k"]["estimate"])
    k, p_value = int(precision["n_true"]), float(precision["p_value"])
    found = p_value <= 1 - results.study.confidence and first >= LEAST_PRECISION
    missed = "" if found else "The scan does not find what was planted. "
    shown = interval_of(precision["estimate"], precision["low"], precision["high"])
    return Way(
        name,
        found,
        f"{missed}Ranked by {label}, {round(first * k)} of the first {k} of {int(precision['n'])} components are among "
        f"the {k} causal ones: average precision {shown}, {precision['chance']:.2f} in a random "
        f"order, {equals_p(p_value)}.",
    )


def _one_position(results: ControlResults) -> Way:
    name = "scaling at one position"
    with_planted = [subset for subset in results.one_position if subset.n_planted]
    without = [subset for subset in results.one_position if not subset.n_planted]
    if not with_planted:
        return Way(name, None, "The continuation ablation is not there, or scales nothing that was planted.")
    best = min(with_planted, key=lambda subset: subset.difference)
    found = _is_lower(best) and all(best.difference < other.difference for other in without)
    missed = "" if found else "Scaling at one position does not find what was planted. "
    beside = "no subset without planted components was scaled there"
    if without:
        nearest = min(without, key=lambda subset: subset.difference)
        beside = f"among subsets that hold none, the lowest difference is that of {_named(nearest)}, {_change(nearest)}"
    return Way(
        name,
        found,
        f"{missed}Right before the baseline's events, {_named(best)} changes the onset token's probability by "
        f"{_change(best)}; {beside}.",
    )


def _sweep(results: ControlResults) -> Way:
    name = "the sweep against random draws"
    rows = results.figures.to_dict("records")
    ranks = {str(row["subject"]): row for row in rows if row["figure"] == "rank_among_draws"}
    own = [subset for subset in results.sweep if subset.n_planted and subset.name in ranks]
    if not own:
        return Way(name, None, "No subset that holds planted components was compared with random draws of its own.")
    found = all(_is_lower(subset) and ranks[subset.name]["estimate"] == 1 for subset in own)
    missed = "" if found else "The sweep does not tell what was planted from random draws. "
    parts = []
    for subset in own:
        rank = ranks[subset.name]
        parts.append(
            f"{_named(subset)} changes {results.sweep_measure} by {_change(subset)}, rank "
            f"{int(rank['estimate'])} of {int(rank['n'])} among itself and its draws "
            f"({equals_p(float(rank['p_value']))})"
        )
    return Way(name, found, f"{missed}In the sweep, {join_names(parts)}.")


def _is_lower(subset: ScaledSubset) -> bool:
    return subset.high is not None and subset.high < 0


def _named(subset: ScaledSubset) -> str:
    planted = f"{subset.n_planted} of {len(subset.components)} planted" if subset.n_planted else "none planted"
    return f"{subset.name} at {subset.scale:g} ({planted})"


def _change(subset: ScaledSubset) -> str:
    return signed_interval(subset.difference, subset.low, subset.high)


def signed_interval(value: float, low: float | None, high: float | None) -> str:
    """`−0.57 [−0.66, −0.49]`; without the interval where there is none."""
    if low is None or high is None:
        return _signed(value)
    return f"{_signed(value)} [{_signed(low)}, {_signed(high)}]"


def interval_of(estimate: float, low: float | None, high: float | None) -> str:
    """`0.57 [0.49, 0.66]`; without the interval where there is none."""
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return f"{estimate:.2f}"
    return f"{estimate:.2f} [{low:.2f}, {high:.2f}]"


def _signed(value: float) -> str:
    rounded = round(value, 2) or 0.0  # what rounds to nothing has no sign
    return f"{rounded:{'+' if rounded else ''}.2f}".replace("-", "−")
