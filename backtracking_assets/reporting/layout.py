"""Where axes stand in a figure: a grid of equal axes, each with room for its labels, and the legend below.

It gives what matplotlib's constrained layout gives for such figures, and measures each label once
or twice for it in place of about ten times. Figures with color bars keep the constrained layout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import Bbox, ScaledTranslation

from backtracking_assets.reporting.svg import POINTS_PER_INCH, Ruler

_PAD = 3.0
"""Points between an axes with its labels and what stands beside it."""

_RULER = Ruler()
"""One for all figures: matplotlib remembers what a renderer has measured for as long as the renderer lives."""


class GridLayout(LayoutEngine):
    """A layout engine for figures made by `Figure.subplots`."""

    _adjust_compatible = False
    _colorbar_gridspec = False

    def execute(self, fig: Figure) -> None:
        """Place all axes, their axis labels, and room for the figure's legends at the bottom.

        Raises:
            ValueError: the figure has axes outside a grid, or more than one grid.
        """
        with in_points(fig) as ruler:
            _arrange(fig, ruler)
            if any(_may_change(axis) for axes in fig.axes for axis in (axes.xaxis, axes.yaxis)):
                _arrange(fig, ruler)  # how many ticks an axis has depends on its length


@contextmanager
def in_points(figure: Figure) -> Iterator[RendererBase]:
    """A figure whose pixels are points meanwhile, and a renderer that measures its text in them and draws nothing."""
    before = figure.dpi
    figure.dpi = POINTS_PER_INCH
    try:
        yield _RULER
    finally:
        figure.dpi = before


def settle(figure: Figure) -> None:
    """Lay a figure out now, and leave it so: what is added later gets no room of its own."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


@dataclass
class _Margins:
    """Points by which labels stand out on each side."""

    left: float = 0.0
    right: float = 0.0
    bottom: float = 0.0
    top: float = 0.0

    def hold(self, other: "_Margins") -> None:
        self.left, self.right = max(self.left, other.left), max(self.right, other.right)
        self.bottom, self.top = max(self.bottom, other.bottom), max(self.top, other.top)


def _arrange(figure: Figure, ruler: RendererBase) -> None:
    if not figure.axes:
        return
    spec = _grid_of(figure)
    n_rows, n_columns = spec.get_geometry()
    columns, rows = [_Margins() for _ in range(n_columns)], [_Margins() for _ in range(n_rows)]
    places: list[tuple[Axes, int, int]] = []
    for axes in figure.axes:
        subplot = axes.get_subplotspec()
        assert subplot is not None
        row, column = subplot.rowspan.start, subplot.colspan.start
        places.append((axes, row, column))
        if axes.get_visible():
            needed = _margins(axes, ruler)
            columns[column].hold(needed)
            rows[row].hold(needed)
    width, height = (inches * POINTS_PER_INCH for inches in figure.get_size_inches())
    floor = sum(legend.get_window_extent(ruler).height + 2 * _PAD for legend in figure.legends)
    across = (width - sum(own.left + own.right + 2 * _PAD for own in columns)) / n_columns
    up = (height - floor - sum(own.bottom + own.top + 2 * _PAD for own in rows)) / n_rows
    if across <= 0 or up <= 0:
        return  # so small a figure keeps what it has, as with the constrained layout
    for axes, row, column in places:
        left = sum(own.left + own.right + 2 * _PAD + across for own in columns[:column]) + _PAD + columns[column].left
        top = sum(own.bottom + own.top + 2 * _PAD + up for own in rows[:row]) + _PAD + rows[row].top
        axes.set_position((left / width, 1 - (top + up) / height, across / width, up / height))


def _grid_of(figure: Figure):
    specs = {None if (own := axes.get_subplotspec()) is None else own.get_gridspec() for axes in figure.axes}
    spec = specs.pop()
    if specs or spec is None:
        raise ValueError("the axes of the figure are not those of one grid")
    return spec


def _margins(axes: Axes, ruler: RendererBase) -> _Margins:
    frame, found = axes.get_window_extent(), _Margins()
    if axes.axison:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_visible():
                found.hold(_margins_of_axis(axes, axis, frame, ruler))
    inside = set(axes.texts)
    for text in axes.get_children():
        if isinstance(text, Text) and text.get_visible() and text.get_text():
            box = text.get_window_extent(ruler)
            if text in inside:
                found.hold(_beyond(box, frame))
            else:  # a title, which may be wider than its axes
                found.top = max(found.top, box.y1 - frame.y1)
    return found


def _margins_of_axis(axes: Axes, axis: Axis, frame: Bbox, ruler: RendererBase) -> _Margins:
    """Of the tick labels and of the axis label, which is placed for good."""
    horizontal = axis is axes.xaxis
    found = _Margins()
    for label in axis.get_ticklabels():
        if not label.get_text():
            continue
        box = label.get_window_extent(ruler)
        middle, low, high = (
            (box.x0 + box.x1, frame.x0, frame.x1) if horizontal else (box.y0 + box.y1, frame.y0, frame.y1)
        )
        if low - 1 <= middle / 2 <= high + 1:  # matplotlib has ticks beyond the limits, and does not draw them
            found.hold(_beyond(box, frame))
    figure, written = axes.get_figure(root=True), bool(axis.label.get_text())
    assert figure is not None
    gap = axis.labelpad + (found.bottom if horizontal else found.left)
    x, y = (0.0, -gap / POINTS_PER_INCH) if horizontal else (-gap / POINTS_PER_INCH, 0.0)
    # A label that matplotlib places itself costs two looks at all ticks at each drawing, an empty one as well.
    axis.set_label_coords(
        *((0.5, 0.0) if horizontal else (0.0, 0.5)),
        transform=axes.transAxes + ScaledTranslation(x, y, figure.dpi_scale_trans),
    )
    if written:
        box = axis.label.get_window_extent(ruler)
        if horizontal:
            found.bottom = max(found.bottom, frame.y0 - box.y0)
        else:
            found.left = max(found.left, frame.x0 - box.x0)
    if axis.get_major_formatter().get_offset():
        height = float(axis.get_offset_text().get_fontsize()) + _PAD
        found.hold(_Margins(bottom=found.bottom + height) if horizontal else _Margins(top=height))
    return found


def _beyond(box: Bbox, frame: Bbox) -> _Margins:
    return _Margins(
        max(frame.x0 - box.x0, 0.0),
        max(box.x1 - frame.x1, 0.0),
        max(frame.y0 - box.y0, 0.0),
        max(box.y1 - frame.y1, 0.0),
    )


def _may_change(axis: Axis) -> bool:
    return not isinstance(axis.get_major_locator(), FixedLocator | NullLocator)
