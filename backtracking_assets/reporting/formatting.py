"""Phase 1's sections on prompt variants and on conditions: measures side by side, and paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from backtracking_assets.measures import MEASURES, Measure
from backtracking_assets.reporting.dots import Dot, DotLegend, DotPanel, dot_figure
from backtracking_assets.reporting.formats import (
    NOT_MEASURED,
    equals_p,
    format_difference,
    format_measurement,
    format_number,
    format_p,
    join_names,
    plural,
)
from backtracking_assets.reporting.measured import Comparison
from backtracking_assets.reporting.phase1_frames import Measured, measured_by_name
from backtracking_assets.reporting.sections import Section, SectionTable, draw_picture
from backtracking_assets.reporting.tables import Column

_SHOWN = (
    "strict_rate",
    "accuracy",
    "accuracy_of_answered",
    "wrong_step_share",
    "no_answer_share",
    "truncated_share",
    "degenerate_share",
)
_COMPARED = ("strict_rate", "accuracy", "accuracy_of_answered", "truncated_share", "degenerate_share")
_DRAWN = ("strict_rate", "accuracy", "accuracy_of_answered")


@dataclass(frozen=True)
class FormattingResults:
    """The prompt variants side by side."""

    rows: pd.DataFrame
    """Rows of `phase1_records.FORMATTING`."""
    variants: tuple[str, ...]
    """The sweep's own first."""
    primary: str
    confidence: float
    identical: tuple[str, ...] = ()
    """Variants of the very text of the sweep's own, which are the same condition."""


@dataclass(frozen=True)
class ConditionResults:
    """Baseline, targeted subset and random controls side by side."""

    rows: pd.DataFrame
    """Rows of `phase1_records.CONDITION_COMPARISON`."""
    labels: dict[tuple[str, float], str]
    """What each cell is called, the baseline first, in the order in which they are read."""
    targeted: str
    """The label of the targeted subset's cell."""
    missing: tuple[str, ...]
    primary: str
    confidence: float
    components: tuple[tuple[str, str], ...]
    """What each scaled cell scales, by its label."""


def formatting_section(results: FormattingResults, title: str) -> Section:
    """What the form of the prompt does to the baseline."""
    found = measured_by_name(results.rows, "variant")
    reference, others = results.variants[0], results.variants[1:]
    shown = _shown(results.primary, found)
    any_row = found[reference, "strict_rate"].value
    return Section(
        title,
        paragraphs=tuple(_sentence(found, others, MEASURES[name], reference) for name in dict.fromkeys(shown[:2])),
        pictures=(
            draw_picture(
                lambda narrow: formatting_figure(results, narrow),
                "Points: rates of each prompt variant with their intervals. The table gives the figures.",
                f"Estimates with their {results.confidence:.0%} intervals; the dashed line is {reference}, which the "
                "sweep uses, and the band its interval.",
            ),
        ),
        tables=_tables(
            f"Every prompt variant on {plural(any_row.n, 'completion')} of "
            f"{plural(any_row.n_problems, 'problem')}, with {results.confidence:.0%} intervals clustered by "
            "problem; the shaded one is the sweep's own.",
            "variant",
            results.variants,
            found,
            shown,
        ),
        limits=(
            f"A difference is paired: the same problems and samples with the same sampling noise, minus {reference}. p "
            f"is corrected over {plural(len(others), 'variant')} by Holm's method.",
            "The variants differ in the form of the prompt alone; what a model does with a form that it was not "
            "trained on says little about one that was.",
            *(f"{name} is the same text as {reference}, so it is the same condition." for name in results.identical),
        ),
    )


def formatting_figure(results: FormattingResults, narrow: bool = False) -> Figure:
    """Rates of the variants side by side, the sweep's own as the line."""
    found = measured_by_name(results.rows, "variant")
    shown = [name for name in _shown(results.primary, found) if name in (results.primary, *_DRAWN)]
    return _figure(results.variants, found, shown, [0] + [1] * (len(results.variants) - 1), (), narrow)


def conditions_section(results: ConditionResults, title: str) -> Section:
    """What the targeted subset does, beside random controls of it."""
    found, names = _conditions(results), _names(results)
    shown = _shown(results.primary, found)
    paragraphs = [
        _targeted_sentence(results, found, names[1:], MEASURES[name]) for name in dict.fromkeys((shown[0], "accuracy"))
    ]
    if erring := [
        name for name in names[1:] if name != results.targeted and _errs_more(found.get((name, "wrong_step_share")))
    ]:
        paragraphs.append(
            f"{join_names(erring)} {'makes' if len(erring) == 1 else 'make'} more wrong steps than the baseline, the "
            "interval of the paired difference above 0: a poor control, whose other changes may follow from that."
        )
    if results.missing:
        paragraphs.append(
            f"Missing, and therefore not compared: {join_names(results.missing)}. The sweep makes them; until then "
            "they count as p = 1 in the correction."
        )
    return Section(
        title,
        paragraphs=tuple(paragraphs),
        pictures=(
            draw_picture(
                lambda narrow: conditions_figure(results, narrow),
                "Points: rates of the baseline, the targeted subset and its random controls. The table gives the "
                "figures.",
                f"Estimates with their {results.confidence:.0%} intervals; the dashed line is the baseline and the "
                "band its interval.",
            ),
        ),
        tables=_tables(
            f"Baseline, targeted subset and its random controls, on the sweep's problems and samples, with "
            f"{results.confidence:.0%} intervals clustered by problem; the shaded row is the baseline.",
            "condition",
            names,
            found,
            shown,
            dict(results.components),
        ),
        limits=(
            "A random control scales as many attention and MLP blocks, drawn outside the targeted subset. Fewer than "
            "19 draws give no p-value for a rank among them: they are shown one by one.",
            "Accuracy is given of all completions, where one without an answer is not right, and of those with an "
            "answer; where an intervention stops answers, the second one looks at other completions than that of the "
            "baseline.",
            "Differences are paired by problem and sample with shared noise. p is corrected over the conditions of "
            "this table by Holm's method; the sweep's page corrects over its whole plan.",
        ),
    )


def conditions_figure(results: ConditionResults, narrow: bool = False) -> Figure:
    """Rates of the conditions side by side, the baseline as the line."""
    found, names = _conditions(results), _names(results)
    shown = list(dict.fromkeys((_shown(results.primary, found)[0], "strict_rate", "accuracy", "degenerate_share")))
    styles = [0] + [1 if name == results.targeted else 2 for name in names[1:]]
    legend = (DotLegend("targeted", False, 1), DotLegend("random control", False, 2))
    return _figure(names, found, shown, styles, legend, narrow)


def _conditions(results: ConditionResults) -> dict[tuple[str, str], Measured]:
    keys = zip(results.rows["layer_subset"], results.rows["scale"], strict=True)
    named = results.rows.assign(label=[results.labels[str(subset), float(scale)] for subset, scale in keys])
    return measured_by_name(named, "label")


def _names(results: ConditionResults) -> tuple[str, ...]:
    """Labels of the conditions that are there, in the order in which they are read."""
    there = {label for label, _ in _conditions(results)}
    return tuple(label for label in results.labels.values() if label in there)


def _shown(primary: str, found: dict[tuple[str, str], Measured]) -> list[str]:
    there = {metric for _, metric in found}
    return [name for name in dict.fromkeys((primary, *_SHOWN)) if name in there]


def _sentence(found: dict[tuple[str, str], Measured], others: Sequence[str], measure: Measure, reference: str) -> str:
    """What the measure is in the reference, and the largest difference to it with what the others do."""
    own = found.get((reference, measure.name))
    start = f"{measure.label}: {format_measurement(None if own is None else own.value, measure)} in {reference}"
    differences: dict[str, Comparison] = {
        name: row.difference
        for name in others
        if (row := found.get((name, measure.name))) is not None and row.difference is not None
    }
    if not differences:
        return f"{start}; there is nothing to compare it with yet."
    largest = max(differences, key=lambda name: abs(differences[name].difference or 0.0))
    difference = differences[largest]
    clear = sorted(name for name, d in differences.items() if d.p_holm is not None and d.p_holm < 0.05)
    verdict = (
        "no difference is clear of chance after correction"
        if not clear
        else f"clear of chance after correction: {join_names(clear)}"
    )
    return (
        f"{start}. The largest of {plural(len(differences), 'paired difference')} is that of {largest}, "
        f"{format_difference(difference, measure)} over {plural(difference.n_pairs, 'pair')} of "
        f"{plural(difference.n_problems, 'problem')} (Holm-corrected {equals_p(difference.p_holm)}); {verdict}."
    )


def _targeted_sentence(
    results: ConditionResults, found: dict[tuple[str, str], Measured], others: Sequence[str], measure: Measure
) -> str:
    """What the measure is in the baseline, and by how much the targeted subset and each control differ."""
    baseline = found.get(("baseline", measure.name))
    start = (
        f"{measure.label}: {format_measurement(None if baseline is None else baseline.value, measure)} in the baseline"
    )
    own = found.get((results.targeted, measure.name))
    if own is None or own.difference is None:
        return f"{start}; {results.targeted} is not there to compare yet."
    difference = own.difference
    said = (
        f"{start}. {results.targeted} differs by {format_difference(difference, measure)}, paired over "
        f"{plural(difference.n_pairs, 'completion')} of {plural(difference.n_problems, 'problem')} (Holm-corrected "
        f"{equals_p(difference.p_holm)})"
    )
    controls = [
        format_number(row.difference.difference, measure, signed=True)
        for name in others
        if name != results.targeted
        and (row := found.get((name, measure.name))) is not None
        and row.difference is not None
    ]
    if not controls:
        return f"{said}; no random control is there beside it."
    return f"{said}, its {plural(len(controls), 'random control')} by {join_names(controls)}."


def _errs_more(steps: Measured | None) -> bool:
    return steps is not None and steps.difference is not None and (steps.difference.low or 0.0) > 0


def _tables(
    caption: str,
    title: str,
    names: Sequence[str],
    found: dict[tuple[str, str], Measured],
    shown: Sequence[str],
    components: dict[str, str] | None = None,
) -> tuple[SectionTable, ...]:
    """The measures, then the paired differences."""
    compared = [name for name in shown if name in (*_COMPARED, shown[0])]
    columns, differing = [Column(title, "left")], [Column(title, "left")]
    columns += [] if components is None else [Column("components", "left")]
    for name in shown:
        measure = MEASURES[name]
        columns.append(Column(measure.label, "right", measure.description))
        if measure.per != "completion":
            columns.append(Column(f"{measure.per}s", "right", f"The denominator of {measure.label}."))
    for name in compared:
        differing += [Column(f"Δ {MEASURES[name].label}", "right"), Column("p (Holm)", "right")]
    rows, differences = [], []
    for row_name in names:
        values, others = [row_name], [row_name]
        values += [] if components is None else [components.get(row_name, "none")]
        for name in shown:
            own = found.get((row_name, name))
            values.append(format_measurement(None if own is None else own.value, MEASURES[name]))
            if MEASURES[name].per != "completion":
                values.append(NOT_MEASURED if own is None else f"{own.value.n:,}")
        for name in compared:
            own = found.get((row_name, name))
            difference = None if own is None else own.difference
            others.append(format_difference(difference, MEASURES[name]))
            others.append(NOT_MEASURED if difference is None else format_p(difference.p_holm))
        rows.append(tuple(values))
        differences.append(tuple(others))
    first = SectionTable(caption, tuple(columns), tuple(rows), shaded=frozenset({0}))
    if not differences[1:]:
        return (first,)
    said = f"Minus {names[0]}, paired by problem and sample, with intervals clustered by problem."
    return (first, SectionTable(said, tuple(differing), tuple(differences[1:])))


def _figure(
    names: Sequence[str],
    found: dict[tuple[str, str], Measured],
    shown: Sequence[str],
    styles: Sequence[int],
    legend: Sequence[DotLegend],
    narrow: bool,
) -> Figure:
    panels = []
    for metric in shown:
        dots = tuple(
            Dot(row, None, None, None, style)
            if (own := found.get((name, metric))) is None
            else Dot(row, own.value.estimate, own.value.low, own.value.high, style)
            for row, (name, style) in enumerate(zip(names, styles, strict=True))
        )
        axis = "share" if MEASURES[metric].unit == "share" else "free"
        panels.append(DotPanel(MEASURES[metric].label, dots, axis, reference=dots[0]))
    return dot_figure(names, panels, legend, narrow)
