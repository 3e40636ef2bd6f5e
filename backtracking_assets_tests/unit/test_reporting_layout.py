"""The layout of figures: everything that is written stands inside the figure and beside, never over, an axes."""

import re
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO, StringIO

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from backtracking_assets.reporting.figures import (
    backtracking_against_accuracy,
    cell_overview,
    dose_response,
    subset_bars,
)
from backtracking_assets.reporting.layout import GridLayout
from backtracking_assets.reporting.style import house_style, to_png, to_svg
from backtracking_assets_tests.unit.reporting_samples import cell_report, sweep_report


@house_style()
def boxes_of(figure: Figure, dots_per_inch: int) -> list[tuple[float, float, float, float]]:
    """Left, bottom, right and top of each axes with all its labels, in inches."""
    to_png(figure, dots_per_inch)  # lays it out
    figure.dpi = dots_per_inch
    renderer = FigureCanvasAgg(figure).get_renderer()
    found = [axes.get_tightbbox(renderer, for_layout_only=True) for axes in figure.axes if axes.axison]
    return [
        (box.x0 / dots_per_inch, box.y0 / dots_per_inch, box.x1 / dots_per_inch, box.y1 / dots_per_inch)
        for box in found
        if box is not None
    ]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("draw", [subset_bars, dose_response, backtracking_against_accuracy])
@pytest.mark.parametrize("dots_per_inch", [72, 192])
def test_axes_with_their_labels_stand_apart_and_inside(
    draw: Callable[..., Figure], narrow: bool, dots_per_inch: int
) -> None:
    figure = draw(sweep_report(), narrow=narrow)
    boxes = boxes_of(figure, dots_per_inch)
    width, height = figure.get_size_inches()
    hinting = 0.03  # text on whole pixels is up to one wider than measured
    for left, bottom, right, top in boxes:
        assert left > -hinting
        assert bottom > -hinting
        assert right < width + hinting
        assert top < height + hinting
    for number, first in enumerate(boxes):
        for second in boxes[:number]:
            assert (
                first[2] < second[0] + hinting
                or second[2] < first[0] + hinting
                or first[3] < second[1] + hinting
                or second[3] < first[1] + hinting
            )


def test_the_legend_stands_below_all_axes() -> None:
    figure = subset_bars(sweep_report())
    boxes = boxes_of(figure, 72)
    legend = figure.legends[0].get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert legend.y1 / figure.dpi < min(bottom for _, bottom, _, _ in boxes) + 0.03


def test_a_figure_looks_the_same_whatever_was_made_of_it_before() -> None:
    figure = cell_overview(cell_report())
    svg = to_svg(figure)
    assert to_png(figure, 96) == to_png(cell_overview(cell_report()), 96)
    assert to_svg(figure) == svg


@house_style()
def test_remembered_texts_are_written_as_matplotlib_writes_them() -> None:
    figure = dose_response(sweep_report())
    again = [to_svg(figure) for _ in range(2)]
    plain = StringIO()
    FigureCanvasSVG(figure).print_svg(plain, metadata={"Date": None, "Creator": None})
    assert again == [plain.getvalue()] * 2


@house_style()
def test_images_have_two_dots_for_each_pixel_of_a_page() -> None:
    figure = Figure(figsize=(4, 2))
    axes = figure.add_axes((0.25, 0.25, 0.5, 0.5))  # 2 by 1 inches, each 96 pixels of a page
    axes.imshow(np.arange(6).reshape(2, 3), aspect="auto", interpolation="nearest")
    svg = to_svg(figure)
    (content,) = re.findall(r'<image xlink:href="data:image/png;base64,\n?([^"]+)"', svg)
    assert Image.open(BytesIO(b64decode(content))).size == (2 * 192, 192)
    (drawn,) = re.findall(r'<image [^>]*? width="([^"]+)" height="([^"]+)"', svg)
    assert [float(points) for points in drawn] == [2 * 72, 72]


@house_style()
def test_an_axis_label_keeps_its_distance_from_long_tick_labels() -> None:
    def left_of_axes(name: str) -> float:
        figure = Figure(figsize=(4, 2), layout=GridLayout())
        axes: Axes = figure.subplots()
        axes.set(yticks=[0, 1], yticklabels=["a", name], ylabel="what it is")
        to_svg(figure)
        box = axes.yaxis.label.get_window_extent(FigureCanvasAgg(figure).get_renderer())
        return (axes.bbox.x0 - box.x1) / figure.dpi

    assert left_of_axes("a name of many letters") > left_of_axes("b") + 1


@house_style()
def test_axes_outside_a_grid_are_refused() -> None:
    figure = Figure(layout=GridLayout())
    figure.add_axes((0.1, 0.1, 0.8, 0.8))
    with pytest.raises(ValueError, match="not those of one grid"):
        to_svg(figure)
