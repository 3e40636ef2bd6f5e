"""Figures of a sweep and of a cell. Each function returns a matplotlib figure; `style.to_png` and `to_svg` write it.

A missing cell is drawn as missing, never as zero, and an interval that could not be computed is left out.
"""

import math
from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from backtracking_assets.measures import MEASURES, Measure
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import CellReport, SweepReport
from backtracking_assets.reporting.drawing import (
    NARROW,
    WIDE,
    Look,
    Point,
    baseline_handles,
    control_handles,
    control_marker,
    draw_baseline,
    draw_points,
    estimate_of,
    missing_handle,
    name_rows,
    note_figure,
    reach,
    share_ticks,
    spread,
    top_of_axis,
    whisker_points,
)
from backtracking_assets.reporting.formats import format_number
from backtracking_assets.reporting.labels import PointLabel, place_labels
from backtracking_assets.reporting.layout import GridLayout
from backtracking_assets.reporting.measured import (
    Measurement,
    SweepIndex,
    index_sweep,
    measurements,
    primary_measure,
)
from backtracking_assets.reporting.shown_subsets import shown_subsets
from backtracking_assets.reporting.style import INK, MUTED, house_style, series_style, text_color

_MAX_WHISKERS = 5
"""Random controls of one subset from which on only their estimates are drawn."""

_OVERVIEW = ("strict_rate", "accuracy", "wrong_step_share", "truncated_share", "degenerate_share")


@house_style()
def subset_bars(report: SweepReport, narrow: bool = False) -> Figure:
    """The primary measure and the strict rate of every targeted subset at the lowest scale, normally 0.

    Bars with intervals; the baseline is a line and a band, the random controls are circles under the bar of the subset
    that they are matched to, crosses where they make more wrong steps.
    """
    index = index_sweep(report)
    lowest = index.lowest_scale
    cells = (
        []
        if lowest is None
        else [cell for name in shown_subsets(index) if (cell := Cell(name, lowest)) in index.planned]
    )
    if not cells:
        return note_figure("No targeted subset is planned below scale 1.", narrow)
    shown = list(dict.fromkeys((index.primary, MEASURES["strict_rate"])))
    height = 0.5 * len(cells) + 0.5
    figure = Figure(
        figsize=(NARROW, height * len(shown) + 1.4) if narrow else (WIDE, height + 0.7), layout=GridLayout()
    )
    grid = figure.subplots(len(shown) if narrow else 1, 1 if narrow else len(shown), squeeze=False).ravel()
    for position, (axes, measure) in enumerate(zip(grid, shown, strict=True)):
        _bar_panel(axes, index, cells, measure, named=narrow or not position)
    handles: list[Artist] = [Patch(color=series_style(0)[0], label=f"subset at scale {lowest:g}")]
    handles += baseline_handles(index, index.primary)
    handles += control_handles(index, [c for c in index.controls() if c.cell.scale == lowest], index.primary)
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if narrow else len(handles))
    return figure


@house_style()
def dose_response(report: SweepReport, metric: str | None = None, narrow: bool = False) -> Figure:
    """One measure (the primary one unless named) against scale, one panel for each targeted subset.

    The baseline is the shared point at scale 1; a cell that is not measured is a gray cross on the axis and breaks the
    line.

    Raises:
        ValueError: there is no measure of that name.
    """
    index = index_sweep(report)
    measure = index.primary if metric is None else primary_measure(metric)
    names = shown_subsets(index)
    if not names:
        return note_figure("No targeted subset is planned.", narrow)
    columns = min(len(names), 2 if narrow else 5)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(NARROW if narrow else WIDE, 1.65 * rows + 0.85), layout=GridLayout())
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    top = top_of_axis(index, measure, [*index.planned])
    for position, (axes, name) in enumerate(zip(grid, names, strict=False)):
        _dose_panel(axes, index, name, measure, series_style(position))
        axes.set_ylim(-0.03 * top, top)
        if position + columns >= len(names):
            axes.set_xlabel("scale")
            axes.tick_params(labelbottom=True)
        if position % columns == 0:
            axes.set_ylabel(measure.label, fontsize=8)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    handles: list[Artist] = [
        Line2D([], [], color=MUTED, marker="o", markersize=5, label="subset"),
        *baseline_handles(index, measure),
        *control_handles(index, index.controls(), measure),
    ]
    drawn = [cell for cell in index.planned if cell.layer_subset in names and cell.scale != BASELINE_SCALE]
    if any(estimate_of(index.value(cell, measure.name)) is None for cell in drawn):
        handles.append(missing_handle())
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if narrow else len(handles))
    return figure


@house_style()
def backtracking_against_accuracy(report: SweepReport, narrow: bool = False) -> Figure:
    """The primary measure against accuracy, a point with both intervals for every measured cell.

    The points of one subset are joined in the order of their scales, from the baseline on; a number beside a point is
    its scale. Where not all targeted subsets are shown, those that are not and all controls are small dots.
    """
    index = index_sweep(report)
    accuracy = MEASURES["accuracy"]
    points = {cell: found for cell in index.planned if (found := _point(index, cell, accuracy)) is not None}
    points = {cell: found for cell, found in points.items() if cell.scale != BASELINE_SCALE}
    baseline = _pair(index.baseline(accuracy.name), index.baseline(index.primary.name))
    if not points and baseline is None:
        return note_figure("No cell has been measured yet.", narrow)
    figure = Figure(figsize=(NARROW, 4.2) if narrow else (WIDE, 5.2), layout=GridLayout())
    axes = figure.subplots()
    axes.grid(True)
    axes.set(xlabel=accuracy.label, ylabel=index.primary.label)
    labels: list[PointLabel] = []
    marks: list[Point] = []
    shown, n_targeted = shown_subsets(index), len(index.targeted())
    for position, name in enumerate(shown):
        color, marker = series_style(position)
        own = sorted((cell for cell in points if cell.layer_subset == name), key=lambda cell: -cell.scale)
        path = [_place(pair) for pair in (baseline, *(points[cell] for cell in own)) if pair is not None]
        axes.plot([x for x, _ in path], [y for _, y in path], color=color, linewidth=1.2, alpha=0.5, zorder=1)
        for cell in own:
            is_last = cell == own[-1]
            look = _pair_look(color, marker, size=7 if is_last else 4.5, alpha=1 if is_last else 0.6)
            marks.append(_pair_point(points[cell], look))
            text = f"{name} {cell.scale:g}" if is_last else f"{cell.scale:g}"
            labels.append(PointLabel(text, *_place(points[cell]), text_color(color), needed=is_last))
    if len(shown) < n_targeted:
        others = [_place(pair) for cell, pair in points.items() if cell.layer_subset not in shown]
        axes.plot(*zip(*others, strict=True), ".", color=MUTED, markersize=3, alpha=0.5, zorder=0.8)
    for control in index.controls() if len(shown) == n_targeted else ():
        if control.cell in points:
            look = _pair_look(MUTED, control_marker(index, control), size=5.5, alpha=0.8)
            marks.append(_pair_point(points[control.cell], look))
            text = control.cell.layer_subset.partition("_of_")[0]
            labels.append(PointLabel(text, *_place(points[control.cell]), MUTED))
    drawn = [pair for cell, pair in points.items() if len(shown) == n_targeted or cell.layer_subset in shown]
    if baseline is not None:
        marks.append(_pair_point(baseline, _pair_look(INK, "D", size=7, alpha=1)))
        labels.append(PointLabel("baseline", *_place(baseline), INK))
        drawn.append(baseline)
    draw_points(axes, marks)
    axes.margins(0.1)
    labels.sort(key=lambda label: not label.needed)
    place_labels(axes, labels, [place for pair in drawn for place in whisker_points(*pair)])
    return figure


@house_style()
def cell_overview(report: CellReport) -> Figure:
    """The main shares of one cell beside the baseline's, as points with intervals; small enough for a catalog page."""
    own = {name: value for (cell, name), value in measurements(report.metrics).items() if cell == report.cell}
    baseline: dict[str, Measurement] = {}
    if report.baseline_metrics is not None:
        baseline = {name: value for (_, name), value in measurements(report.baseline_metrics).items()}
    return rates_figure(own, baseline, report.primary_measure, str(report.cell), "baseline")


@house_style()
def rates_figure(
    own: Mapping[str, Measurement],
    baseline: Mapping[str, Measurement],
    primary: str | None,
    name: str,
    baseline_name: str,
) -> Figure:
    """The main shares of one condition beside those of another, where there is one, as points with intervals."""
    leading = primary_measure(primary)
    shown = [
        measure
        for measure in dict.fromkeys((leading, *(MEASURES[name] for name in _OVERVIEW)))
        if measure.unit == "share" and (not measure.needs_steps or estimate_of(own.get(measure.name)) is not None)
    ]
    figure = Figure(figsize=(5.6, 0.32 * len(shown) + 0.75), layout=GridLayout())
    axes = figure.subplots()
    axes.grid(True, axis="x")
    points: list[Point] = []
    own_look, reference_look = Look(series_style(0)[0], "o"), Look(INK, "D", size=4.5, hollow=True)
    for y, measure in enumerate(shown):
        reference, value = baseline.get(measure.name), own.get(measure.name)
        if reference is not None and reference.estimate is not None:
            points.append(Point(reference.estimate, y + 0.17, reference_look, reach(reference)))
        if value is None or value.estimate is None:
            axes.text(0.01, y - 0.17, "not measured", color=MUTED, style="italic", va="center", fontsize=8)
            continue
        points.append(Point(value.estimate, y - (0.17 if baseline else 0), own_look, reach(value)))
        _margin_number(axes, y, value.estimate, measure)
    draw_points(axes, points)
    name_rows(axes, range(len(shown)), [measure.label for measure in shown])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(shown) - 0.5, -0.5))
    share_ticks(axes)
    handles: list[Artist] = [Line2D([], [], color=series_style(0)[0], marker="o", linestyle="none", label=name)]
    if baseline:
        handles.append(
            Line2D([], [], color=INK, marker="D", mfc="white", markersize=5, linestyle="none", label=baseline_name)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _bar_panel(axes: Axes, index: SweepIndex, cells: Sequence[Cell], measure: Measure, named: bool) -> None:
    axes.set_title(measure.label)
    axes.grid(True, axis="x")
    draw_baseline(axes, index.baseline(measure.name), vertical=True)
    drawn = list(cells)
    bars: list[tuple[float, float]] = []
    points: list[Point] = []
    for y, cell in enumerate(cells):
        controls = [control for control in index.controls(cell.layer_subset) if control.cell.scale == cell.scale]
        drawn += [control.cell for control in controls]
        center = y - 0.12 if controls else y
        value = index.value(cell, measure.name)
        if value is None or value.estimate is None:
            axes.text(0.01, center, "not measured", color=MUTED, style="italic", va="center", fontsize=8)
        else:
            bars.append((center, value.estimate))
            points.append(Point(value.estimate, center, Look(INK, "none"), reach(value)))
            _margin_number(axes, center, value.estimate, measure)
        for control, offset in zip(controls, spread(len(controls), 0.22), strict=True):
            found = index.value(control.cell, measure.name)
            if found is not None and found.estimate is not None:
                whiskers = reach(found) if len(controls) <= _MAX_WHISKERS else None
                look = Look(MUTED, control_marker(index, control), size=4, hollow=True, cap=2)
                points.append(Point(found.estimate, y + 0.2 + offset, look, whiskers))
    if bars:
        axes.barh(*zip(*bars, strict=True), height=0.44, color=series_style(0)[0])
    draw_points(axes, points)
    name_rows(axes, range(len(cells)), [cell.layer_subset for cell in cells] if named else [])
    axes.set(xlim=(0, top_of_axis(index, measure, drawn)), ylim=(len(cells) - 0.45, -0.55))


def _dose_panel(axes: Axes, index: SweepIndex, name: str, measure: Measure, look: tuple[str, str]) -> None:
    color, marker = look
    axes.set_title(name, fontsize=8.5)
    axes.grid(True)
    baseline = index.baseline(measure.name)
    draw_baseline(axes, baseline, vertical=False)
    below = [cell for cell in index.planned if cell.layer_subset == name and cell.scale != BASELINE_SCALE]
    values = {cell.scale: index.value(cell, measure.name) for cell in below} | {BASELINE_SCALE: baseline}
    estimates = {scale: estimate_of(value) for scale, value in sorted(values.items())}
    axes.plot([*estimates], [math.nan if y is None else y for y in estimates.values()], color=color, linewidth=1.6)
    points: list[Point] = []
    for scale, value in values.items():
        if value is None or value.estimate is None:
            axes.plot(scale, 0.035, "x", color=MUTED, markersize=5, transform=axes.get_xaxis_transform())
            continue
        own = (INK, "D") if scale == BASELINE_SCALE else (color, marker)
        points.append(Point(scale, value.estimate, Look(*own, size=4.5), y_reach=reach(value)))
    controls = index.controls(name)
    for control, offset in zip(controls, spread(len(controls), 0.1), strict=True):
        value = index.value(control.cell, measure.name)
        if value is not None and value.estimate is not None:
            own_look = Look(MUTED, control_marker(index, control), size=4, hollow=True)
            # Beside their scale, so that they do not lie on the subset's own point.
            points.append(Point(control.cell.scale + 0.05 + offset, value.estimate, own_look))
    draw_points(axes, points)
    axes.set(xticks=[0, 0.5, 1], xlim=(min([0.0, *estimates]) - 0.07, max([1.0, *estimates]) + 0.07))
    axes.set_xticklabels(["0", "0.5", "1"])


def _margin_number(axes: Axes, y: float, estimate: float, measure: Measure) -> None:
    """The estimate in figures, at the right of its row."""
    axes.text(1.015, y, format_number(estimate, measure), va="center", fontsize=8, transform=axes.get_yaxis_transform())


_Pair = tuple[Measurement, Measurement]


def _point(index: SweepIndex, cell: Cell, x_measure: Measure) -> _Pair | None:
    return _pair(index.value(cell, x_measure.name), index.value(cell, index.primary.name))


def _pair(x: Measurement | None, y: Measurement | None) -> _Pair | None:
    """Both measurements where both have an estimate."""
    if x is None or y is None or x.estimate is None or y.estimate is None:
        return None
    return x, y


def _place(pair: _Pair) -> tuple[float, float]:
    x, y = (value.estimate if value.estimate is not None else math.nan for value in pair)
    return x, y


def _pair_look(color: str, marker: str, size: float, alpha: float) -> Look:
    return Look(color, marker, size, cap=0, line_width=0.9, edge="white", alpha=alpha)


def _pair_point(pair: _Pair, look: Look) -> Point:
    return Point(*_place(pair), look, reach(pair[0]), reach(pair[1]))
