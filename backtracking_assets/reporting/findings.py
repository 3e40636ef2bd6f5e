"""What a sweep says, in plain sentences computed from its figures, and what stands against believing it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backtracking_assets.measures import MEASURES
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import SweepReport
from backtracking_assets.reporting.control_ranks import control_rank, rank_sentences
from backtracking_assets.reporting.formats import (
    equals_p,
    format_difference,
    format_measurement,
    format_number,
    join_names,
    plural,
)
from backtracking_assets.reporting.measured import (
    SET_APART,
    Comparison,
    Key,
    Measurement,
    SweepIndex,
    index_sweep,
    lies_above,
)

NOTABLE_TRUNCATION = 0.05
"""Share of baseline completions that end at the token cap from which the page warns about it."""


_MOST_NAMED = 4
"""Controls that a sentence names; more are counted, and the table of controls names them."""


@dataclass(frozen=True)
class Findings:
    """The answer of a sweep."""

    answer: str
    """One sentence: which targeted subset lowers the primary measure most, or why nobody can tell."""
    cautions: tuple[str, ...]
    """Sentences that bear on whether to believe it, the weightiest first."""


@dataclass(frozen=True)
class _Drop:
    cell: Cell
    value: Measurement
    comparison: Comparison
    difference: float

    def is_clear(self, alpha: float) -> bool:
        """Whether the interval lies below zero and the corrected p is small enough."""
        high, p_holm = self.comparison.high, self.comparison.p_holm
        return high is not None and high < 0 and p_holm is not None and p_holm < alpha


def find_answer(report: SweepReport) -> Findings:
    """The sweep's answer and its cautions.

    A drop counts as clear when its interval lies below zero and its Holm-corrected p is below one minus the study's
    confidence.
    """
    index = index_sweep(report)
    alpha = 1 - report.study.confidence
    label = index.primary.label
    baseline = index.baseline(index.primary.name)
    if baseline is None or baseline.estimate is None:
        return Findings(f"No answer yet: the baseline's “{label}” has not been measured.", ())
    if index.lowest_scale is None:
        return Findings("No answer: the plan holds no cell below scale 1.", ())
    targeted = [
        name
        for name in index.targeted()
        if (cell := Cell(name, index.lowest_scale)) in index.planned and cell.scale < 1
    ]
    drops = sorted(_drops(index, targeted), key=lambda drop: drop.difference)
    if not drops:
        return Findings(
            f"No answer yet: no targeted subset at scale {index.lowest_scale:g} has been compared with the baseline.",
            (),
        )
    best = drops[0]
    cautions = [*_measure_cautions(index), *_missing(len(targeted), drops)]
    if not best.is_clear(alpha):
        unclear = [*_too_few_resamples(index, report.study.resamples, drops, alpha), *cautions, *_truncation(index)]
        return Findings(_no_clear_drop(index, drops), tuple(unclear))
    among = f"the {plural(len(drops), 'targeted subset')} measured" if len(drops) > 1 else "the one subset measured"
    answer = (
        f"Of {among}, {best.cell.layer_subset} at scale {best.cell.scale:g} lowers “{label}” most: from "
        f"{format_measurement(baseline, index.primary)} at the baseline to "
        f"{format_measurement(best.value, index.primary)}, a paired difference of "
        f"{format_difference(best.comparison, index.primary)} (Holm-corrected {equals_p(best.comparison.p_holm)})."
    )
    if len(drops) == 1:
        answer = answer.replace(" most:", ":").replace(f"Of {among}, ", "")
    cautions = [
        *_control_cautions(index, best),
        *_part_done(index, best.cell),
        *_side_effects(index, best.cell),
        *_rivals(index, drops, alpha),
        *cautions,
        *_truncation(index),
    ]
    return Findings(answer, tuple(cautions))


def find_limits(report: SweepReport) -> tuple[str, ...]:
    """Sentences that say what the intervals mean and how far the completions can be trusted."""
    study, index = report.study, index_sweep(report)
    limits = [
        f"A cell is {plural(study.completions_per_cell, 'completion')}: {plural(study.n_problems, 'problem')} times "
        f"{plural(study.samples_per_problem, 'sample')}. Samples of one problem are alike, so they count for less than "
        "that many independent draws.",
        f"A {study.confidence:.0%} interval tells how far a figure may lie from that of all problems of this kind "
        "under the same condition; it says nothing of another model, another prompt or another kind of problem.",
    ]
    for metric in ("truncated_share", "degenerate_share"):
        found = {cell: value for cell in index.planned if (value := index.value(cell, metric)) is not None}
        estimates = {cell: value.estimate for cell, value in found.items() if value.estimate is not None}
        if estimates:
            worst = max(estimates, key=lambda cell: estimates[cell])
            measure = MEASURES[metric]
            limits.append(
                f"{measure.label}: {format_measurement(index.baseline(metric), measure)} at the baseline, at most "
                f"{format_measurement(found[worst], measure)} ({worst})."
            )
    limits += _methods("Intervals", index.measured)
    limits += _methods("Differences from the baseline", index.compared)
    return tuple(limits)


def _methods(what: str, values: Mapping[Key, Measurement] | Mapping[Key, Comparison]) -> list[str]:
    """One sentence for each method: the measures that it was used for."""
    used: dict[str, dict[str, None]] = {}
    for (_, metric), value in values.items():
        used.setdefault(value.method, {})[MEASURES[metric].label if metric in MEASURES else metric] = None
    if len(used) == 1:
        return [f"{what}: {method}." for method in used]
    return [f"{what} of {join_names(labels)}: {method}." for method, labels in used.items()]


def _drops(index: SweepIndex, names: list[str]) -> list[_Drop]:
    found: list[_Drop] = []
    for name in names:
        cell = Cell(name, index.lowest_scale if index.lowest_scale is not None else 1.0)
        value = index.value(cell, index.primary.name)
        comparison = index.comparison(cell, index.primary.name)
        if value is not None and comparison is not None and comparison.difference is not None:
            found.append(_Drop(cell, value, comparison, comparison.difference))
    return found


def _no_clear_drop(index: SweepIndex, drops: list[_Drop]) -> str:
    best = drops[0]
    name, label = best.cell.layer_subset, index.primary.label
    difference = format_difference(best.comparison, index.primary)
    if best.difference >= 0:
        return (
            f"None of the {plural(len(drops), 'targeted subset')} measured at scale {best.cell.scale:g} lowers "
            f"“{label}”; the least change is {name}'s, {difference}."
        )
    return (
        f"No targeted subset clearly lowers “{label}” at scale {best.cell.scale:g}: the largest drop is {name}'s, "
        f"{difference}, Holm-corrected {equals_p(best.comparison.p_holm)}."
    )


def _too_few_resamples(index: SweepIndex, resamples: int, drops: list[_Drop], alpha: float) -> list[str]:
    """Whether a drop is unclear only because so many comparisons need a lower p than the resamples can give."""
    lowest = 1 / (resamples + 1)
    for drop in drops:
        own, corrected, high = drop.comparison.p_value, drop.comparison.p_holm, drop.comparison.high
        if own is None or corrected is None or high is None or high >= 0 or own > lowest * 1.001 or corrected < alpha:
            continue
        corrected_over = round(corrected / own) if corrected < 1 else len({cell for cell, _ in index.compared})
        return [
            f"With statistics.resamples at {resamples:,}, no p is below 1 in "
            f"{resamples + 1:,}, and none can be clear after a correction over {corrected_over:,} "
            f"comparisons: set it to at least {math.ceil(corrected_over / alpha):,}. What is there is measured anew, "
            "nothing is generated.",
        ]
    return []


def _control_cautions(index: SweepIndex, best: _Drop) -> list[str]:
    """How the best subset stands against the random subsets matched to it, at the same scale."""
    name, primary = best.cell.layer_subset, index.primary
    planned = [c.cell for c in index.controls(name) if c.cell.scale == best.cell.scale]
    measured = {cell: value for cell in planned if (value := index.value(cell, primary.name)) is not None}
    if not any(value.estimate is not None for value in measured.values()):
        why = "have been measured yet" if planned else "are in the plan"
        return [f"No random controls matched to {name} {why}, so the drop cannot be called specific to these layers."]
    sentence = f"{plural(len(measured), 'random control')} matched to {name} gave {_span(index, [*measured.values()])}"
    broken = [cell for cell in measured if index.damage(cell)]
    intact = [value for cell, value in measured.items() if cell not in broken]
    if broken and intact:
        sentence += f", or {_span(index, intact)} without {_set_apart(index, broken)}"
    elif broken:
        sentence += f" but {_shared_damage(index, broken)}, so they are a poor comparison"
    sentences = [f"{sentence}.", *rank_sentences(control_rank(index, best.cell))]
    if len(measured) < len(planned):
        sentences.append(f"{len(planned) - len(measured)} more could not be measured yet.")
    as_low = [cell.layer_subset for cell, value in measured.items() if not lies_above(value, best.value)]
    if as_low:
        sentences.append(
            f"The intervals of {_counted(as_low)} do not lie above that of {name}: "
            "the drop may not be specific to these layers."
        )
    return [" ".join(sentences)]


def _set_apart(index: SweepIndex, broken: Sequence[Cell]) -> str:
    """`random_2_of_x, which makes more wrong steps`, or how many where a list would be long."""
    if len(broken) == 1:
        return f"{broken[0].layer_subset}, which {join_names(index.damage(broken[0]))}"
    return f"{_counted([cell.layer_subset for cell in broken])}, which break arithmetic or coherence"


def _shared_damage(index: SweepIndex, broken: Sequence[Cell]) -> str:
    """What all of them do, where it is one thing."""
    kinds = {words for cell in broken for words in index.damage(cell)}
    only = SET_APART["wrong_step_share"]
    return only.replace("makes", "make") if kinds == {only} else "break arithmetic or coherence"


def _counted(names: Sequence[str]) -> str:
    """The names, or how many there are where the list would be long."""
    return join_names(names) if len(names) <= _MOST_NAMED else f"{len(names)} of them"


def _span(index: SweepIndex, values: Sequence[Measurement]) -> str:
    """`0.59 to 0.77`: the least and the greatest estimate."""
    estimates = [value.estimate for value in values if value.estimate is not None]
    if not estimates:
        return "no figure"
    return " to ".join(dict.fromkeys(format_number(x, index.primary) for x in (min(estimates), max(estimates))))


def _side_effects(index: SweepIndex, cell: Cell) -> list[str]:
    """What else the intervention changed, which could explain the drop."""
    sentences: list[str] = []
    for metric, does in SET_APART.items():
        measure, value, baseline = MEASURES[metric], index.value(cell, metric), index.baseline(metric)
        if index.rises(cell, metric):
            sentences.append(
                f"{cell.layer_subset} also {does} than the baseline: {format_measurement(value, measure)} against "
                f"{format_measurement(baseline, measure)}."
            )
    accuracy = index.comparison(cell, "accuracy")
    if accuracy is not None and accuracy.difference is not None:
        sentences.append(f"Its accuracy differs by {format_difference(accuracy, MEASURES['accuracy'])}.")
    return sentences


def _part_done(index: SweepIndex, cell: Cell) -> list[str]:
    planned = index.planned[cell]
    if planned.status == "done":
        return []
    return [f"{cell.layer_subset} is only part done: {plural(planned.n_completions, 'completion')} so far."]


def _rivals(index: SweepIndex, drops: list[_Drop], alpha: float) -> list[str]:
    best, rivals = drops[0], [drop for drop in drops[1:] if drop.is_clear(alpha)]
    sentences: list[str] = []
    if rivals:
        listed = join_names(
            f"{drop.cell.layer_subset} ({format_difference(drop.comparison, index.primary)})" for drop in rivals
        )
        sentences.append(f"Also clearly lower: {listed}.")
    unsettled = [
        drop.cell.layer_subset
        for drop in rivals
        if drop.comparison.low is not None
        and best.comparison.high is not None
        and drop.comparison.low <= best.comparison.high
    ]
    if unsettled:
        sentences.append(
            f"The intervals of {best.cell.layer_subset} and {join_names(unsettled)} overlap, so their order is open."
        )
    return sentences


def _missing(n_planned: int, drops: list[_Drop]) -> list[str]:
    left = n_planned - len(drops)
    if not left:
        return []
    return [f"{left} of the {plural(n_planned, 'targeted subset')} planned at this scale could not be compared."]


def _measure_cautions(index: SweepIndex) -> list[str]:
    if index.primary.needs_steps:
        return []
    return [
        "The steps of this model's text cannot be checked, so nothing here tells a trigger that follows an error "
        "from one that does not."
    ]


def _truncation(index: SweepIndex) -> list[str]:
    truncated = index.baseline("truncated_share")
    if truncated is None or truncated.estimate is None or truncated.estimate < NOTABLE_TRUNCATION:
        return []
    return [
        f"At the baseline {format_measurement(truncated, MEASURES['truncated_share'])} of the completions ended at "
        "the token cap: accuracy and every rate describe cut texts."
    ]
