"""The page of phase 1: its question, set-up, sections in order, controls, failed checks, limits, how to repeat it."""

from dataclasses import dataclass

from backtracking_assets.reporting.contents import CheckOutcome, Provenance, Study
from backtracking_assets.reporting.page import failed_checks, render_page
from backtracking_assets.reporting.sections import Section, SectionTable, absent_titles


@dataclass(frozen=True)
class PromptText:
    """A prompt variant as it stands in the experiment file."""

    name: str
    text: str
    opening: str
    """What the answer is opened with; empty where nothing is."""
    of_sweep: bool


@dataclass(frozen=True)
class Checked:
    """A prompt variant or a condition, and the outcomes of its checks."""

    subject: str
    checks: tuple[CheckOutcome, ...]


@dataclass(frozen=True)
class Phase1Report:
    """Contents of the page of phase 1."""

    study: Study
    question: tuple[str, ...]
    setup: tuple[tuple[str, str], ...]
    """Names of settings and their values."""
    variants: tuple[PromptText, ...]
    sections: tuple[Section, ...]
    controls: tuple[str, ...]
    control_table: SectionTable | None
    checked: tuple[Checked, ...]
    limits: tuple[str, ...]
    version: str
    """Digest of what the page shows."""
    provenance: Provenance


def render_phase1_report(report: Phase1Report) -> str:
    """The HTML page of phase 1, complete in one file; the same report gives the same text."""
    shown = [section for section in report.sections if not section.absent_because]
    return render_page(
        "phase1_report.html.j2",
        report=report,
        study=report.study,
        provenance=report.provenance,
        answers=[(section.title, section.paragraphs[0]) for section in shown if section.paragraphs],
        n_shown=len(shown),
        absent=absent_titles(report.sections),
        warned=[Checked(own.subject, tuple(failed)) for own in report.checked if (failed := failed_checks(own.checks))],
        any_checks=any(own.checks for own in report.checked),
    )
