"""A section of a page: its title, then sentences, figures and tables in the order in which they are read.

Whoever measures something gives a `Section`; a page renders a list of them and knows nothing of what they show.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from backtracking_assets.reporting.page import Picture, embed
from backtracking_assets.reporting.tables import Column


@dataclass(frozen=True)
class SectionTable:
    """A table of texts; the first value of each row names the row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    shaded: frozenset[int] = frozenset()
    """Numbers of the rows that the others are compared with."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.caption!r} has {len(self.columns)} columns and a row of {len(row)} values")


@dataclass(frozen=True)
class Section:
    """One result of a study as a page shows it, or why it does not."""

    title: str
    paragraphs: tuple[str, ...] = ()
    """What was found; the first one answers the section's question."""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[SectionTable, ...] = ()
    limits: tuple[str, ...] = ()
    """What was looked at, and what the figures cannot tell."""
    absent_because: str = ""
    """Why nothing is shown; empty where something is."""


def draw_picture(draw: Callable[[bool], Figure], alt: str, caption: str) -> Picture:
    """A figure in both layouts; `draw` takes whether it is the narrow one."""
    return Picture(wide=embed(draw(False)), narrow=embed(draw(True)), alt=alt, caption=caption)


def not_measured(title: str, command: str) -> Section:
    """The section of something that is not there yet, or older than what it would be computed from."""
    return Section(title, absent_because=f"Not measured yet, or older than its inputs; `{command}` does it.")


def absent_titles(sections: Sequence[Section]) -> tuple[str, ...]:
    """Titles of the sections that show nothing."""
    return tuple(section.title for section in sections if section.absent_because)
