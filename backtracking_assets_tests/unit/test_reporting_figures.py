"""Figures: the same bytes for the same data, missing cells drawn as missing, every thin case drawn at all."""

import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import imread

from backtracking_assets.records import Cell
from backtracking_assets.reporting.contents import SweepReport
from backtracking_assets.reporting.figures import (
    backtracking_against_accuracy,
    cell_overview,
    dose_response,
    subset_bars,
)
from backtracking_assets.reporting.labels import PointLabel, place_labels
from backtracking_assets.reporting.style import MARKERS, PALETTE, house_style, series_style, to_png, to_svg
from backtracking_assets_tests.unit.reporting_samples import (
    ABLATED,
    BASELINE,
    CONTROL,
    OTHER,
    TARGET,
    VALUES,
    cell_report,
    metrics_frame,
    sweep_report,
    without,
)

SWEEP_FIGURES = [subset_bars, dose_response, backtracking_against_accuracy]


def texts(figure: Figure) -> list[str]:
    """Every text that a reader sees, legends included."""
    figure.canvas.draw()
    found = figure.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_visible())
    return [artist.get_text() for artist in found if artist.get_text()]  # type: ignore[attr-defined]


def n_intervals(axes: Axes) -> int:
    return sum(len(lines.get_segments()) for lines in axes.collections if isinstance(lines, LineCollection))


@pytest.mark.parametrize("draw", SWEEP_FIGURES)
def test_the_same_data_give_the_same_bytes(draw: Callable[[SweepReport], Figure]) -> None:
    first, second = draw(sweep_report()), draw(sweep_report())
    assert to_png(first, 60) == to_png(second, 60)
    assert to_svg(first) == to_svg(second)


def test_bytes_do_not_depend_on_the_settings_of_the_user() -> None:
    plain = to_svg(cell_overview(cell_report()))
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None, "axes.grid": True}):
        assert to_svg(cell_overview(cell_report())) == plain


def test_the_style_ends_with_its_outermost_use() -> None:
    with mpl.rc_context({"font.size": 30}):
        with house_style():
            with house_style():
                assert mpl.rcParams["font.size"] == 9
            assert mpl.rcParams["font.size"] == 9
        assert mpl.rcParams["font.size"] == 30


def test_files_carry_no_time_and_no_version() -> None:
    figure = cell_overview(cell_report())
    assert b"Software" not in to_png(figure, 60)
    assert mpl.__version__ not in to_svg(figure)
    assert "dc:date" not in to_svg(figure)


def test_figures_need_no_display_and_no_home(tmp_path: Path) -> None:
    code = (
        "from backtracking_assets.reporting.figures import cell_overview\n"
        "from backtracking_assets.reporting.style import to_png\n"
        "from backtracking_assets_tests.unit.reporting_samples import cell_report\n"
        "import sys\n"
        "sys.stdout.buffer.write(to_png(cell_overview(cell_report()), 60)[:4])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    nowhere = tmp_path / "file"
    nowhere.touch()  # a home below a file can never be made
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND", "MPLCONFIGDIR")}
    environment |= {"HOME": str(nowhere / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.stdout == b"\x89PNG", done.stderr.decode()


@pytest.mark.parametrize("draw", SWEEP_FIGURES)
@pytest.mark.parametrize(
    "report",
    [
        pytest.param(sweep_report(primary_measure=None), id="no primary measure"),
        pytest.param(sweep_report({ABLATED: VALUES[ABLATED]}), id="one cell"),
        pytest.param(sweep_report({BASELINE: VALUES[BASELINE]}), id="the baseline alone"),
        pytest.param(sweep_report({Cell(CONTROL, 0.0): VALUES[Cell(CONTROL, 0.0)]}), id="a control alone"),
        pytest.param(without(sweep_report(), *VALUES), id="nothing measured"),
        pytest.param(sweep_report(metrics=metrics_frame().assign(low=None, high=None)), id="no intervals"),
        pytest.param(sweep_report(dict.fromkeys(VALUES, (None,) * 4)), id="no estimates"),
        pytest.param(sweep_report(dict.fromkeys(VALUES, (0.0,) * 4)), id="all zero"),
        pytest.param(sweep_report({Cell("$x$_1", 0.0): (0.5,) * 4}), id="a name like a formula"),
    ],
)
def test_thin_sweeps_are_drawn(
    draw: Callable[..., Figure], report: SweepReport, recwarn: pytest.WarningsRecorder
) -> None:
    image = imread(BytesIO(to_png(draw(report), 40)), format="png")
    assert np.ptp(image) > 0.3  # something dark stands on the white
    assert not recwarn.list


@pytest.mark.parametrize("draw", SWEEP_FIGURES)
def test_the_narrow_layout_says_the_same(draw: Callable[..., Figure]) -> None:
    wide, narrow = draw(sweep_report()), draw(sweep_report(), narrow=True)
    assert narrow.get_figwidth() < 0.5 * wide.get_figwidth()
    names = {TARGET, OTHER, f"{TARGET} 0", f"{OTHER} 0", "baseline", "Accuracy", "Strict rate"}
    assert names & set(texts(narrow)) == names & set(texts(wide)) != set()


def test_a_missing_cell_is_no_bar() -> None:
    whole, part = subset_bars(sweep_report()), subset_bars(without(sweep_report(), Cell(OTHER, 0.0)))
    for axes, other in zip(whole.axes, part.axes, strict=True):
        assert len(axes.patches) - len(other.patches) == 1
        assert n_intervals(axes) - n_intervals(other) == 1
    assert texts(part).count("not measured") == 2
    assert "not measured" not in texts(whole)


def test_a_missing_cell_breaks_the_line() -> None:
    values = dict(VALUES) | {Cell(TARGET, 0.25): (0.1, 0.1, 0.8, 0.07)}
    panel = dose_response(without(sweep_report(values), Cell(TARGET, 0.25))).axes[0]
    line = next(line for line in panel.lines if len(np.atleast_1d(line.get_xdata())) == 4)
    assert list(np.isnan(np.asarray(line.get_ydata(), dtype=float))) == [False, True, False, False]
    assert any(line.get_marker() == "x" for line in panel.lines)


def test_dose_response_has_a_panel_for_each_targeted_subset_and_none_for_controls() -> None:
    figure = dose_response(sweep_report(), "accuracy")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [TARGET, OTHER]
    assert figure.axes[0].get_ylabel() == "Accuracy"
    assert "matched random control" in texts(figure)
    with pytest.raises(ValueError, match="There is no measure"):
        dose_response(sweep_report(), "acuracy")


def test_without_a_primary_measure_the_strict_rate_stands_alone() -> None:
    figure = subset_bars(sweep_report(primary_measure=None))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Strict rate"]


def test_the_scatter_names_every_subset_once_and_the_baseline() -> None:
    seen = texts(backtracking_against_accuracy(sweep_report()))
    assert [seen.count(name) for name in (f"{TARGET} 0", f"{OTHER} 0", "baseline")] == [1, 1, 1]


def test_the_overview_of_the_baseline_shows_no_comparison() -> None:
    assert "baseline" in texts(cell_overview(cell_report()))
    assert "baseline" not in texts(cell_overview(cell_report(BASELINE)))


@house_style()
def test_labels_of_points_close_together_do_not_overlap() -> None:
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    points = [(0.5, 0.5), (0.505, 0.5), (0.5, 0.51), (0.51, 0.49), (0.495, 0.505)]
    dropped = place_labels(axes, [PointLabel(f"subset {n}", x, y, "black") for n, (x, y) in enumerate(points)], points)
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert dropped == 0
    assert len(boxes) == len(points)
    assert not any(a.padded(0.5).overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


@house_style()
def test_a_label_that_is_not_needed_gives_way() -> None:
    figure = Figure(figsize=(1, 1))
    axes = figure.subplots()
    labels = [PointLabel("a long label of a point", 0.5, 0.5, "black", needed=needed) for needed in (True, False)]
    assert place_labels(axes, labels, []) == 1


def test_series_stay_apart_beyond_the_palette() -> None:
    looks = [series_style(index) for index in range(len(PALETTE) * len(MARKERS))]
    assert len(set(looks)) == 42
