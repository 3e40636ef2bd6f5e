"""The page of an imported run: its faults, its figures beside what its events give, and what could not be read."""

from collections.abc import Iterable
from dataclasses import dataclass

from backtracking_assets.imported_records import EVENTS_FILE, SWEEP_FILES, Outcome
from backtracking_assets.reporting.formats import NOT_MEASURED, plural
from backtracking_assets.reporting.imported_contents import ImportedReport, Row
from backtracking_assets.reporting.page import render_page

_MOST_LISTED = 200
"""Rows that could not be read which the page lists; the database has all."""

_DENOMINATORS = {"": "", "all": "unknown answers count as wrong", "answered": "unknown answers left out"}
_OUTCOMES: dict[Outcome, str] = {
    "equal": "equal",
    "other denominator": "published with the other denominator",
    "differs": "differs",
    "fewer events": "the events hold fewer completions",
    "only recomputed": "from the events",
    "only published": "as published: the events do not allow it",
}
_GROUPS = (
    ("By variant and condition, from the events", (EVENTS_FILE,)),
    ("The sweeps over subsets and scales", SWEEP_FILES),
)


@dataclass(frozen=True)
class FigureRow:
    """One figure as text."""

    entry: str
    measure: str
    published: str
    recomputed: str
    n: str
    outcome: str
    differs: bool


@dataclass(frozen=True)
class FigureTable:
    """The figures of one part of the run."""

    title: str
    rows: tuple[FigureRow, ...]
    summary: str


def render_imported_report(report: ImportedReport) -> str:
    """The HTML page of an imported run, complete in one file; the same report gives the same text."""
    own = {file for _, files in _GROUPS for file in files}
    others = tuple(dict.fromkeys(row["file"] for row in report.figures if row["file"] not in own))
    leading = [table for title, files in _GROUPS if (table := _table(title, report.figures, files)) is not None]
    further = [table for file in others if (table := _table(file, report.figures, (file,))) is not None]
    return render_page(
        "imported_report.html.j2",
        report=report,
        run=report.run,
        answer=_answer(report.figures),
        leading=leading,
        further=further,
        listed=report.unreadable[:_MOST_LISTED],
        n_listed=_MOST_LISTED,
    )


def _answer(figures: Iterable[Row]) -> str:
    """How many published figures the events give again."""
    published: dict[tuple[str, str, str], set[str]] = {}
    for row in figures:
        if row["published"] is not None:
            published.setdefault((row["file"], row["entry"], row["measure"]), set()).add(row["outcome"])
    n_equal = sum("equal" in outcomes for outcomes in published.values())
    n_differ = sum("differs" in outcomes for outcomes in published.values())
    n_fewer = sum("fewer events" in outcomes for outcomes in published.values())
    n_only = sum(outcomes == {"only published"} for outcomes in published.values())
    parts = [f"{n_equal:,} follow from the events", f"{n_differ:,} differ from them"]
    if n_fewer:
        parts.append(f"{n_fewer:,} were published for more completions than the events hold")
    parts.append(f"{n_only:,} can only be shown as published")
    return f"Of {plural(len(published), 'published figure')}, {', '.join(parts)}."


def _table(title: str, figures: Iterable[Row], files: Iterable[str]) -> FigureTable | None:
    rows = tuple(_row(row) for row in figures if row["file"] in tuple(files))
    if not rows:
        return None
    n_differing = sum(row.differs for row in rows)
    summary = plural(len(rows), "figure") + (f", {n_differing:,} differ from the events" if n_differing else "")
    return FigureTable(title, rows, summary)


def _row(row: Row) -> FigureRow:
    denominator = _DENOMINATORS[row["denominator"]]
    return FigureRow(
        entry=row["entry"],
        measure=row["measure"] + (f" ({denominator})" if denominator else ""),
        published=_number(row["published"]),
        recomputed=_with_interval(row),
        n=""
        if row["n"] is None
        else f"{row['n']:,}" + (f" of {row['n_examples']:,} examples" if row["n_examples"] else ""),
        outcome=_OUTCOMES[row["outcome"]],
        differs=row["outcome"] == "differs",
    )


def _with_interval(row: Row) -> str:
    text = _number(row["recomputed"])
    if row["low"] is None or row["high"] is None:
        return text
    return f"{text} [{_number(row['low'])}, {_number(row['high'])}]"


def _number(value: float | None) -> str:
    """`0.6333`, `1,200` for a whole number; a dash for None. Figures of other scales keep four digits."""
    if value is None:
        return NOT_MEASURED
    if value == round(value) and abs(value) < 1e9:
        return f"{round(value):,}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")
