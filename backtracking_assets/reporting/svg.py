"""An SVG renderer that shapes a text once in a process: pages of one study say the same things again and again."""

from functools import lru_cache
from io import StringIO
from typing import Any

from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font
from matplotlib.textpath import TextToPath

POINTS_PER_INCH = 72
_IMAGE_DOTS_PER_INCH = 192
"""Of images within figures: two dots for each pixel of a page, which is what dense screens show."""
_MOST_TEXTS = 4096

_shaping = TextToPath()
_outlines: dict[str, Any] = {}
"""By the name of the glyph, which holds that of its font. Texts share them: each is about a kilobyte."""


def svg_document(figure: Figure) -> str:
    """The figure as an SVG document without time or software version. Its dots per inch must be `POINTS_PER_INCH`."""
    buffer = StringIO()
    width, height = (inches * POINTS_PER_INCH for inches in figure.get_size_inches())
    no_stamp = {"Date": None, "Creator": None}
    renderer = _Renderer(width, height, buffer, image_dpi=_IMAGE_DOTS_PER_INCH, metadata=no_stamp)
    figure.draw(renderer)
    renderer.finalize()
    return buffer.getvalue()


class Ruler(RendererBase):
    """Measures texts as wide as they are drawn, in points at 72 dots per inch, and draws nothing."""

    def get_text_width_height_descent(self, s: str, prop: FontProperties, ismath: Any) -> tuple[float, float, float]:
        return _size_of(s, prop, ismath)


class _Renderer(RendererSVG):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._text2path = _RememberedTexts()

    def get_text_width_height_descent(self, s: str, prop: FontProperties, ismath: Any) -> tuple[float, float, float]:
        return _size_of(s, prop, ismath)


class _RememberedTexts(TextToPath):
    """Glyphs and their places as matplotlib finds them."""

    def get_glyphs_with_font(
        self, font: FT2Font, s: str, glyph_map: Any = None, return_new_glyphs_only: bool = False, **options: Any
    ) -> Any:
        if glyph_map is None or not return_new_glyphs_only or any(option is not None for option in options.values()):
            return super().get_glyphs_with_font(font, s, glyph_map, return_new_glyphs_only, **options)
        placed, boxes = _shaped(font, s)
        return placed, {name: _outlines[name] for name, *_ in placed if name not in glyph_map}, boxes


@lru_cache(_MOST_TEXTS)
def _shaped(font: FT2Font, text: str) -> Any:
    placed, _, boxes = _shaping.get_glyphs_with_font(font, text, _outlines)
    return placed, boxes


@lru_cache(_MOST_TEXTS)
def _size_of(text: str, font: FontProperties, is_math: Any) -> tuple[float, float, float]:
    return _shaping.get_text_width_height_descent(text, font, is_math)
