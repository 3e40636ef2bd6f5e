"""Placing labels beside points without covering points, whiskers or each other, as far as there is room."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from backtracking_assets.reporting.layout import in_points, settle

_DIRECTIONS = tuple(math.radians(degrees) for degrees in (45, 315, 135, 225, 0, 180, 90, 270))
_DISTANCES = (6, 12, 20, 30, 42, 56)
"""Points between a label and its point; from the fourth on, a line leads to it."""
_LEADER_FROM = 20
_AIR = 0.4
"""Points around a label that stay free."""
_N_NEAR = 2 * len(_DIRECTIONS)
"""Places near enough for a label that is not needed: those without a line."""


@dataclass(frozen=True)
class PointLabel:
    """A label of a point in data coordinates."""

    text: str
    x: float
    y: float
    color: str
    needed: bool = True
    """Whether it must be shown even where it cannot be free of others; one that is not needed is dropped."""


def place_labels(axes: Axes, labels: Sequence[PointLabel], obstacles: Sequence[tuple[float, float]]) -> int:
    """Write labels beside their points, in the order given, each at the first free place around its point.

    `obstacles` are points in data coordinates that no label may cover. The limits of the axes must be set before; the
    layout of the figure is settled here. Returns how many labels were dropped for want of room.
    """
    figure = axes.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise TypeError("The axes belong to no figure.")
    settle(figure)
    axes.get_xlim()  # limits that follow from the data are computed when they are asked for
    with in_points(figure) as ruler:
        return _place(axes, labels, obstacles, ruler)


def _place(
    axes: Axes, labels: Sequence[PointLabel], obstacles: Sequence[tuple[float, float]], ruler: RendererBase
) -> int:
    frame = axes.get_window_extent(ruler)
    taken = _Taken(_places(axes, obstacles), 2)
    anchors = _places(axes, [(label.x, label.y) for label in labels])
    dropped = 0
    for label, (across, up) in zip(labels, anchors, strict=True):
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
            color=label.color,
            annotation_clip=False,
        )
        box = text.get_window_extent(ruler).padded(_AIR)
        anchor = (float(across), float(up))
        offsets = [_offset(box, angle, distance) for distance in _DISTANCES for angle in _DIRECTIONS]
        tried = enumerate(offsets if label.needed else offsets[:_N_NEAR])
        free = next((found for found in tried if _is_free(box.translated(*found[1]), frame, taken)), None)
        if free is None and not label.needed:
            text.remove()
            dropped += 1
            continue
        number, offset = free or (0, offsets[0])
        text.set_position(offset)
        taken.add(box.translated(*offset))
        if _DISTANCES[number // len(_DIRECTIONS)] >= _LEADER_FROM:
            end_x, end_y = _nearest_edge(box.translated(*offset), anchor)
            axes.annotate(
                "",
                (label.x, label.y),
                xytext=(end_x - anchor[0], end_y - anchor[1]),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": label.color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
            )
    return dropped


def _places(axes: Axes, points: Sequence[tuple[float, float]]) -> npt.NDArray[np.float64]:
    """Points in data coordinates as points of the figure, `[points, 2]`."""
    return axes.transData.transform(np.array(points, dtype=np.float64).reshape(-1, 2))


def _offset(box: Bbox, angle: float, distance: float) -> tuple[float, float]:
    """How far a centered label must move, in points, to lie `distance` from its point in a direction."""
    return (
        math.cos(angle) * (distance + box.width / 2),
        math.sin(angle) * (distance + box.height / 2),
    )


class _Taken:
    """Boxes that are taken, kept as numbers: thousands are asked about for each label."""

    def __init__(self, centers: npt.NDArray[np.float64], radius: float) -> None:
        self._corners = np.hstack([centers - radius, centers + radius])

    def add(self, box: Bbox) -> None:
        self._corners = np.vstack([self._corners, box.extents])

    def overlap(self, box: Bbox) -> bool:
        """Whether any of them overlaps the box; one that only touches it does."""
        left, low, right, high = self._corners.T
        x0, y0, x1, y1 = box.extents
        return bool(((left <= x1) & (right >= x0) & (low <= y1) & (high >= y0)).any())


def _is_free(box: Bbox, frame: Bbox, taken: _Taken) -> bool:
    inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
    return inside and not taken.overlap(box)


def _nearest_edge(box: Bbox, point: tuple[float, float]) -> tuple[float, float]:
    x, y = point
    return min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
