"""Phase 1's section on backtracking against accuracy within the baseline."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from backtracking_assets.measures import BACKTRACKING_FIGURES, BacktrackingFigure
from backtracking_assets.reporting.dots import Dot, DotLegend, DotPanel, dot_figure
from backtracking_assets.reporting.formats import NOT_MEASURED, equals_p, format_p, plural
from backtracking_assets.reporting.measured import Measurement
from backtracking_assets.reporting.phase1_frames import measurement, number
from backtracking_assets.reporting.sections import Section, SectionTable, draw_picture
from backtracking_assets.reporting.tables import Column

_COMPLETIONS = {"all": "all completions", "answered": "completions with an answer"}
_WITH_P = ("difference", "difference_within")


@dataclass(frozen=True)
class BacktrackingResults:
    """Accuracy with and without a strict trigger, in the baseline of each prompt variant."""

    rows: pd.DataFrame
    """Rows of `phase1_records.BACKTRACKING_ACCURACY`."""
    variants: tuple[str, ...]
    confidence: float


@dataclass(frozen=True)
class _Figure:
    value: Measurement
    n_correct: int | None
    p_holm: float | None


_Found = dict[tuple[str, str, str], _Figure]


def backtracking_section(results: BacktrackingResults, title: str) -> Section:
    """Whether completions that backtrack are right more often, over the baseline and within problems."""
    found = _by_key(results.rows)
    return Section(
        title,
        paragraphs=(
            *(_sentence(found, variant) for variant in results.variants),
            "This is an association, not a cause: whether a model backtracks may follow from how the problem goes, and "
            "an error that is made gives a reason to backtrack and to be wrong. Changing the components, as the sweep "
            "does, is what speaks of causes.",
        ),
        pictures=(
            draw_picture(
                lambda narrow: backtracking_figure(results, narrow),
                "Points: accuracy with and without a strict trigger, and their difference. The table gives figures.",
                f"Estimates with their {results.confidence:.0%} intervals. At the left and in the middle, filled "
                "points are completions with a strict trigger and hollow ones those without. At the right, filled "
                "points are the difference over all completions and hollow ones that within problems.",
            ),
        ),
        tables=_tables(results, found),
        limits=(
            "Each prompt variant is a condition of its own and stands by itself: over pooled conditions, what changes "
            "both would look like an association.",
            "Harder problems may backtrack more and be solved less. The comparison within a problem takes only "
            "problems with completions of both kinds, and each of these counts once.",
            "A completion without an answer is not right among all completions, and left out among those with an "
            "answer.",
            "Intervals come from a bootstrap over problems (shares: Wilson on the effective sample size); p is by sign "
            "flips over problems, corrected over the variants by Holm's method.",
        ),
    )


def backtracking_figure(results: BacktrackingResults, narrow: bool = False) -> Figure:
    """Accuracy with and without a trigger by variant, of all completions and of those answered; the differences."""
    found = _by_key(results.rows)

    def dot(row: int, variant: str, completions: str, figure: str, hollow: bool) -> Dot:
        value = found[variant, completions, figure].value
        return Dot(row, value.estimate, value.low, value.high, row, hollow, 0.15 if hollow else -0.15)

    panels = [
        DotPanel(
            f"Accuracy, {_COMPLETIONS[completions]}",
            tuple(
                dot(row, variant, completions, figure, hollow)
                for row, variant in enumerate(results.variants)
                for figure, hollow in (("accuracy_with", False), ("accuracy_without", True))
            ),
        )
        for completions in _COMPLETIONS
    ]
    panels.append(
        DotPanel(
            "Difference, with minus without",
            tuple(
                dot(row, variant, "all", figure, hollow)
                for row, variant in enumerate(results.variants)
                for figure, hollow in (("difference", False), ("difference_within", True))
            ),
            "difference",
        )
    )
    legend = (DotLegend("with a trigger; difference", False), DotLegend("without; difference within a problem", True))
    return dot_figure(results.variants, panels, legend, narrow)


def _sentence(found: _Found, variant: str) -> str:
    own = {name: found[variant, "all", name] for name in BACKTRACKING_FIGURES}
    with_, without = own["accuracy_with"], own["accuracy_without"]
    if own["difference"].value.estimate is None:
        kind = "all" if with_.value.n else "none"
        return f"{variant}: {kind} of its completions have a strict trigger, so there is nothing to compare."
    within = own["difference_within"]
    sentence = (
        f"{variant}: of {plural(with_.value.n, 'completion')} with a strict trigger, "
        f"{_text(own, 'accuracy_with')} are right, of {without.value.n:,} without one "
        f"{_text(own, 'accuracy_without')}: "
        f"a difference of {_text(own, 'difference')} (Holm-corrected {equals_p(own['difference'].p_holm)})"
    )
    if own["lift"].value.estimate is not None:
        sentence += f", a lift of {_text(own, 'lift')}"
    if within.value.estimate is None:
        return f"{sentence}. No problem has completions of both kinds."
    return (
        f"{sentence}. Within {plural(within.value.n_problems, 'problem')} with completions of both kinds it is "
        f"{_text(own, 'difference_within')} (Holm-corrected {equals_p(within.p_holm)})."
    )


def _tables(results: BacktrackingResults, found: _Found) -> tuple[SectionTable, ...]:
    """Accuracy of both kinds, then how they compare."""
    interval = f"with {results.confidence:.0%} intervals clustered by problem"
    captions = (
        f"Accuracy with and without a strict trigger, {interval}; right answers of completions in brackets.",
        f"Completions with a strict trigger compared with those without, {interval}.",
    )
    tables = []
    for caption, compared in zip(captions, (False, True), strict=True):
        figures = [figure for figure in BACKTRACKING_FIGURES.values() if (figure.unit != "share") == compared]
        columns = [Column("variant", "left"), Column("completions", "left")]
        for figure in figures:
            columns.append(Column(figure.label, "right", figure.description))
            columns += [Column("p (Holm)", "right")] if figure.name in _WITH_P else []
        rows = []
        for variant in results.variants:
            for completions, label in _COMPLETIONS.items():
                own = {name: found[variant, completions, name] for name in BACKTRACKING_FIGURES}
                values = [variant, label]
                for figure in figures:
                    values.append(_text(own, figure.name) + _counts(figure.name, own[figure.name]))
                    values += [format_p(own[figure.name].p_holm)] if figure.name in _WITH_P else []
                rows.append(tuple(values))
        tables.append(SectionTable(caption, tuple(columns), tuple(rows)))
    return tuple(tables)


def _text(own: dict[str, _Figure], name: str) -> str:
    value, figure = own[name].value, BACKTRACKING_FIGURES[name]
    if value.estimate is None:
        return NOT_MEASURED
    ends = [end for end in (value.low, value.high) if end is not None]
    text = _number(value.estimate, figure)
    if len(ends) == 2:
        return f"{text} [{_number(ends[0], figure)}, {_number(ends[1], figure)}]"
    if value.low is not None:
        return f"{text} [{_number(value.low, figure)}, ∞)"
    return text


def _counts(name: str, own: _Figure) -> str:
    if own.n_correct is not None:
        return f" ({own.n_correct:,} of {own.value.n:,})"
    if name == "difference_within":
        return f" ({plural(own.value.n, 'problem')})"
    return ""


def _number(value: float, figure: BacktrackingFigure) -> str:
    signed = figure.unit == "difference"
    rounded = round(value, 2) or 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.2f}".replace("-", "−")


def _by_key(frame: pd.DataFrame) -> _Found:
    found: _Found = {}
    for row in frame.to_dict("records"):
        key = (str(row["variant"]), str(row["completions"]), str(row["figure"]))
        if key in found:
            raise ValueError(f"{key[0]} has two rows of {key[2]} over {key[1]} completions")
        n_correct = number(row["n_correct"])
        found[key] = _Figure(measurement(row), None if n_correct is None else round(n_correct), number(row["p_holm"]))
    return found
