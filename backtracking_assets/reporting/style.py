"""How figures look, and how they become bytes: the same data give the same bytes on every run."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from backtracking_assets.reporting.layout import settle
from backtracking_assets.reporting.svg import POINTS_PER_INCH, svg_document

INK = "#1f2328"
MUTED = "#6b7280"
GRID = "#e3e6ea"
BAND = "#d5dae1"
"""The baseline's interval."""

# Okabe and Ito's palette, which stays apart for every common kind of color blindness, without its yellow (too light
# on white) and its black (the ink of the text). Markers differ too, so that no reading rests on color alone.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same on every machine
    "font.size": 9,
    "text.parse_math": False,  # a name with a dollar sign is a name
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.titley": 1.0,  # no axes has ticks at its top, for which matplotlib would look at each drawing
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "path",  # no reader needs the font
    "svg.hashsalt": "backtracking_assets",  # ids would be random otherwise
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}

_in_use = ContextVar("house_style", default=False)


@contextmanager
def house_style() -> Iterator[None]:
    """The style of every figure, whatever the user's matplotlibrc says; also usable as a decorator.

    Within it, asking for it again costs nothing; setting all 300 values takes a millisecond.
    """
    if _in_use.get():
        yield
        return
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        token = _in_use.set(True)
        try:
            yield
        finally:
            _in_use.reset(token)


def series_style(index: int) -> tuple[str, str]:
    """Color and marker of the index-th series; the pairs repeat only after 42."""
    return PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]


def text_color(color: str) -> str:
    """A color darkened until small text in it can be read on white."""
    red, green, blue = to_rgb(color)
    return to_hex((0.6 * red, 0.6 * green, 0.6 * blue))


@house_style()
def to_png(figure: Figure, dots_per_inch: int = 192) -> bytes:
    """A PNG file without time or software version; 192 dots per inch are sharp on a screen of twice the density."""
    buffer = BytesIO()
    with _laid_out(figure, dots_per_inch):
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


@house_style()
def to_svg(figure: Figure) -> str:
    """An SVG document without time or software version, its text drawn as paths."""
    with _laid_out(figure, POINTS_PER_INCH):
        return svg_document(figure)


@contextmanager
def _laid_out(figure: Figure, dots_per_inch: int) -> Iterator[None]:
    """A figure at a resolution, its layout computed once: `savefig` draws everything a second time to trigger it."""
    settle(figure)
    before = figure.dpi
    figure.dpi = dots_per_inch
    try:
        yield
    finally:
        figure.dpi = before
