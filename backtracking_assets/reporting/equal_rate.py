"""Layer subsets against the control that only scales the odds of trigger words, at equal rate: words, table, figure."""

from matplotlib.figure import Figure

from backtracking_assets.equal_rate_records import EqualRate
from backtracking_assets.layer_subsets import TRIGGER_LOGITS
from backtracking_assets.measures import MEASURES
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.reporting.contents import SweepReport
from backtracking_assets.reporting.drawing import (
    NARROW,
    WIDE,
    Look,
    Point,
    draw_points,
    note_figure,
    reach,
    whisker_points,
)
from backtracking_assets.reporting.formats import format_interval, format_number, join_names
from backtracking_assets.reporting.labels import PointLabel, place_labels
from backtracking_assets.reporting.layout import GridLayout
from backtracking_assets.reporting.measured import Measurement, SweepIndex, index_sweep
from backtracking_assets.reporting.shown_subsets import shown_subsets
from backtracking_assets.reporting.style import INK, MUTED, house_style, series_style, text_color
from backtracking_assets.reporting.tables import Column, TextTable

_VERDICTS = {
    "equivalent": "the effect is suppression of a word",
    "differs": "differs from suppression of a word",
    "undecided": "undecided",
    "outside": "no equal rate",
}
_BORDERLINE = 0.05
"""Share of resamples outside the curve from which on a sentence says so."""


def equal_rate_sentence(found: EqualRate) -> str:
    """What the comparison of one subset says."""
    measure = MEASURES[found.rate_measure]
    name, rate = found.cell.layer_subset, format_number(found.rate, measure)
    rates = [rate for _, rate in found.curve]
    if found.scale is None:
        span = f"{format_number(min(rates), measure)} to {format_number(max(rates), measure)}"
        return (
            f"{name}: its rate of {rate} lies outside the curve of {TRIGGER_LOGITS} ({span}), so nothing is compared."
        )
    if found.outside_share >= _BORDERLINE and abs(found.rate - rates[-1]) < abs(found.rate - rates[0]):
        return (
            f"{name}: its rate of {rate} can hardly be told from the baseline's (in {found.outside_share:.0%} of the "
            "resamples it lies beyond it), so there is no effect to explain."
        )
    differing = [MEASURES[o.measure].label for o in found.outcomes if o.verdict == "differs"]
    open_ones = [MEASURES[o.measure].label for o in found.outcomes if o.verdict == "undecided"]
    sentence = f"{name}, at the rate {rate} that {TRIGGER_LOGITS} has at scale {found.scale:.2f}: "
    if found.verdict == "equivalent":
        sentence += f"the effect is suppression of a word; every outcome is the same within ±{found.margin:g}."
    elif found.verdict == "differs":
        sentence += f"differs from suppression of a word in {join_names(differing)}."
    else:
        sentence += f"undecided; {join_names(open_ones)} could differ by more than ±{found.margin:g} or not at all."
    if found.outside_share >= _BORDERLINE:
        sentence += (
            f" In {found.outside_share:.0%} of the resamples the rate lies beyond the curve's end, which was taken."
        )
    return sentence


def equal_rate_table(results: tuple[EqualRate, ...]) -> TextTable:
    """One row for each subset and outcome."""
    columns = (
        Column("subset", "left"),
        Column("rate", "right", f"{MEASURES[results[0].rate_measure].label} of the subset at its lowest scale."),
        Column("scale", "right", f"Scale of {TRIGGER_LOGITS} at which it has that rate, interpolated."),
        Column("outcome", "left"),
        Column("subset's", "right"),
        Column("control's", "right", f"Of {TRIGGER_LOGITS} at that scale, interpolated."),
        Column("difference", "right", "With an interval that holds jointly over the outcomes of the subset."),
        Column("verdict", "left", f"Equivalent: within ±{results[0].margin:g} by two one-sided tests."),
    )
    rows: list[tuple[str, ...]] = []
    for found in results:
        rate = format_number(found.rate, MEASURES[found.rate_measure])
        if found.scale is None:
            rows.append((found.cell.layer_subset, rate, "outside", "–", "–", "–", "–", _VERDICTS["outside"]))
        for outcome in found.outcomes:
            measure = MEASURES[outcome.measure]
            interval = format_interval(outcome.low, outcome.high, measure, signed=True)
            rows.append(
                (
                    found.cell.layer_subset,
                    rate,
                    f"{found.scale:.2f}",
                    measure.label,
                    format_number(outcome.subset, measure),
                    format_number(outcome.control, measure),
                    f"{format_number(outcome.difference, measure, signed=True)} {interval}",
                    outcome.verdict,
                )
            )
    return TextTable(columns, tuple(rows))


@house_style()
def equal_rate_figure(report: SweepReport, narrow: bool = False) -> Figure:
    """Accuracy against the rate of triggers: the control's curve over its scales, and each subset's over its own.

    A subset on the control's curve does to accuracy what saying the word less often does by itself.
    """
    index = index_sweep(report)
    baseline = (index.baseline(index.primary.name), index.baseline("accuracy"))
    paths = {name: _path(index, name) for name in (*shown_subsets(index), TRIGGER_LOGITS)}
    if not paths[TRIGGER_LOGITS]:
        return note_figure(f"No cell of {TRIGGER_LOGITS} has been measured yet.", narrow)
    figure = Figure(figsize=(NARROW, 4.2) if narrow else (WIDE, 4.6), layout=GridLayout())
    axes = figure.subplots()
    axes.grid(True)
    axes.set(xlabel=index.primary.label, ylabel=MEASURES["accuracy"].label)
    labels: list[PointLabel] = []
    drawn: list[tuple[Measurement, Measurement]] = []
    marks: list[Point] = []
    for position, (name, path) in enumerate(paths.items()):
        is_control = name == TRIGGER_LOGITS
        color, marker = (INK, "D") if is_control else series_style(position)
        points = [*path, *([(BASELINE_SCALE, *baseline)] if None not in baseline else [])]
        places = [(x.estimate, y.estimate) for _, x, y in points if x is not None and y is not None]
        axes.plot(*zip(*places, strict=True), color=color, linewidth=2 if is_control else 1.1, alpha=0.8, zorder=1.5)
        for place, (scale, x, y) in enumerate(path):
            first = place == 0
            alpha = 1 if first or is_control else 0.6
            look = Look(color, marker, 6 if first else 4, cap=0, line_width=0.8, edge="white", alpha=alpha)
            marks.append(Point(_number(x), _number(y), look, reach(x), reach(y)))
            drawn.append((x, y))
            text = f"{name} {scale:g}" if first else f"{scale:g}"
            if first or is_control:
                labels.append(PointLabel(text, _number(x), _number(y), text_color(color), needed=first))
    if baseline[0] is not None and baseline[1] is not None:
        marks.append(Point(_number(baseline[0]), _number(baseline[1]), Look(MUTED, "o", size=6, edge="white")))
        labels.append(PointLabel("baseline", _number(baseline[0]), _number(baseline[1]), INK))
    draw_points(axes, marks)
    axes.margins(0.1)
    labels.sort(key=lambda label: not label.needed)
    place_labels(axes, labels, [place for pair in drawn for place in whisker_points(*pair)])
    return figure


def _path(index: SweepIndex, name: str) -> list[tuple[float, Measurement, Measurement]]:
    """(scale, rate, accuracy) of a subset's measured cells below the baseline, the lowest scale first."""
    found: list[tuple[float, Measurement, Measurement]] = []
    for cell in sorted((c for c in index.planned if c.layer_subset == name), key=lambda cell: cell.scale):
        x, y = index.value(cell, index.primary.name), index.value(cell, "accuracy")
        if cell.scale < BASELINE_SCALE and x is not None and y is not None and None not in (x.estimate, y.estimate):
            found.append((cell.scale, x, y))
    return found


def _number(value: Measurement) -> float:
    return float("nan") if value.estimate is None else value.estimate
