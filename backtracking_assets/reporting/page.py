"""What both pages share: the template environment, embedded figures, and figures' captions."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.reporting.formats import format_components, format_time, plural
from backtracking_assets.reporting.style import to_svg
from backtracking_assets.reporting.text import marked_text, shorten, visible

_CSS_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class Image:
    """A figure as it stands in a page."""

    uri: str
    width: int
    """CSS pixels."""
    height: int


@dataclass(frozen=True)
class Picture:
    """One figure in two layouts, with what it shows in words."""

    wide: Image
    narrow: Image | None
    alt: str
    caption: str


def embed(figure: Figure) -> Image:
    """A figure as a data URI, so that the page needs no other file."""
    width, height = figure.get_size_inches()
    encoded = base64.b64encode(to_svg(figure).encode()).decode()
    return Image(
        uri=f"data:image/svg+xml;base64,{encoded}",
        width=round(width * _CSS_PIXELS_PER_INCH),
        height=round(height * _CSS_PIXELS_PER_INCH),
    )


def render_page(template: str, **values: Any) -> str:
    """A page from one of the templates beside this module; every value is escaped."""
    return _environment().get_template(template).render(**values)


def breakable(name: str) -> Markup:
    """A name that may be broken after each of its underscores."""
    return Markup("_<wbr>").join(visible(name).split("_"))


def unbroken_interval(value: str) -> Markup:
    """A figure that may be broken before its interval, never inside."""
    estimate, bracket, rest = value.partition(" [")
    if not bracket:
        return escape(visible(value))
    return Markup('{} <span class="nowrap">[{}</span>').format(visible(estimate), visible(rest))


def failed_checks(checks: Iterable[CheckOutcome]) -> list[CheckOutcome]:
    """The checks that failed, errors before warnings."""
    return sorted((check for check in checks if not check.passed), key=lambda check: check.severity != "error")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("backtracking_assets.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "marked": lambda completion: marked_text(completion.text, completion.events),
        "shorten": shorten,
        "breakable": breakable,
        "interval": unbroken_interval,
        "components": format_components,
        "time": format_time,
    }
    environment.globals |= {"plural": plural}
    return environment


def _finalize(value: object) -> object:
    """Nothing that a page prints may hide or reorder what stands around it, whatever its source."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
