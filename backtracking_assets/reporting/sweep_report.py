"""The page of the whole sweep: its answer, what stands against it, figures, the result table, how to repeat it."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from backtracking_assets.measures import MEASURES
from backtracking_assets.reporting.classes import class_section
from backtracking_assets.reporting.contents import CheckOutcome, ContinuationSection, PlannedCell, SweepReport
from backtracking_assets.reporting.continuation import continuation_answer, continuation_limits, continuation_table
from backtracking_assets.reporting.continuation_figure import continuation_figure
from backtracking_assets.reporting.control_ranks import control_table
from backtracking_assets.reporting.equal_rate import equal_rate_figure, equal_rate_sentence, equal_rate_table
from backtracking_assets.reporting.figures import backtracking_against_accuracy, dose_response, subset_bars
from backtracking_assets.reporting.findings import find_answer, find_limits
from backtracking_assets.reporting.formats import (
    format_components,
    format_difference,
    format_measurement,
    join_names,
    plural,
)
from backtracking_assets.reporting.measured import SweepIndex, index_sweep
from backtracking_assets.reporting.page import Picture, embed, failed_checks, render_page
from backtracking_assets.reporting.published import published_values
from backtracking_assets.reporting.shared_noise import shared_noise_summary, shared_noise_table
from backtracking_assets.reporting.shown_subsets import shown_note, shown_subsets
from backtracking_assets.reporting.style import house_style
from backtracking_assets.reporting.tables import result_table


@dataclass(frozen=True)
class SubsetRow:
    """One layer subset: what it scales, and what it breaks at the lowest scale."""

    name: str
    components: str
    control_of: str | None
    wrong_steps: str
    note: str
    set_apart: bool


@dataclass(frozen=True)
class Warned:
    """A cell and its checks that failed."""

    cell: str
    checks: tuple[CheckOutcome, ...]


@house_style()
def render_sweep_report(report: SweepReport) -> str:
    """The HTML page of a sweep, complete in one file; the same report gives the same text.

    Raises:
        ValueError: a frame has two rows of one cell and measure, or the primary measure does not exist.
    """
    index = index_sweep(report)
    table = result_table(report)
    warned = [Warned(str(c.cell), tuple(failed)) for c in report.cells if (failed := failed_checks(c.checks))]
    return render_page(
        "sweep_report.html.j2",
        report=report,
        study=report.study,
        provenance=report.provenance,
        findings=find_answer(report),
        limits=find_limits(report),
        missing=missing_cells(report),
        n_done=sum(planned.status == "done" for planned in report.cells),
        pictures=_pictures(report, index),
        table=table,
        groups=[list(rows) for _, rows in groupby(table.rows, key=lambda row: row.layer_subset)],
        subsets=_subset_rows(report, index),
        has_steps=index.baseline("wrong_step_share") is not None and index.primary.needs_steps,
        control_ranks=control_table(index),
        equal_rate=_equal_rate(report, index),
        noise_table=shared_noise_table(index),
        noise_summary=shared_noise_summary(index),
        warned=warned,
        class_section=class_section(report, index),
        continuation_section=_continuation(report.continuation),
        published_section=published_values(report.published, index),
        any_checks=any(planned.checks for planned in report.cells),
    )


def _continuation(section: ContinuationSection) -> dict[str, Any]:
    """The values of the section on the continuation ablation."""
    results = section.results
    if results is None:
        return {
            "absent_because": section.absent_because,
            **dict.fromkeys(("answer", "picture", "table", "limits")),
        }
    return {
        "absent_because": "",
        "answer": continuation_answer(results),
        "picture": Picture(
            wide=embed(continuation_figure(results)),
            narrow=embed(continuation_figure(results, narrow=True)),
            alt="Points: probabilities and shares of every intervention beside the unscaled run. The table gives the "
            "figures.",
            caption="Whiskers are intervals. At the left and in the middle, the model's own distribution behind the "
            "one position that is scaled; at the right, continuations sampled from there.",
        ),
        "table": continuation_table(results),
        "limits": continuation_limits(results),
    }


def _equal_rate(report: SweepReport, index: SweepIndex) -> dict[str, Any]:
    """The values of the section on the comparison at equal rate."""
    results = report.equal_rate.results
    shown: dict[str, Any] = {"absent_because": report.equal_rate.absent_because, "sentences": [], "picture": None}
    if not results:
        return shown | {"table": None}
    return shown | {
        "sentences": [equal_rate_sentence(found) for found in results],
        "picture": Picture(
            wide=embed(equal_rate_figure(report)),
            narrow=embed(equal_rate_figure(report, narrow=True)),
            alt="Lines: accuracy against the rate of triggers, of the control and of each targeted subset over their "
            "scales. The table gives the figures at equal rate.",
            caption="The heavy line is the control. A subset on it does to accuracy what saying the word less often "
            f"does by itself; the number beside a point is its scale.{shown_note(index)}",
        ),
        "table": equal_rate_table(results),
    }


def missing_cells(report: SweepReport) -> list[str]:
    """One line for each subset whose cells are not all done: which scales are missing and which are part done."""
    lines: list[str] = []
    for name, own in _by_subset(report).items():
        missing = [f"{planned.cell.scale:g}" for planned in own if planned.status == "missing"]
        part = [
            f"{planned.cell.scale:g} ({planned.n_completions:,} of {report.study.completions_per_cell:,} completions)"
            for planned in own
            if planned.status == "partial"
        ]
        parts = [f"missing at scale {join_names(missing)}"] if missing else []
        parts += [f"part done at scale {join_names(part)}"] if part else []
        if parts:
            lines.append(f"{name}: {'; '.join(parts)}")
    return lines


def _by_subset(report: SweepReport) -> dict[str, list[PlannedCell]]:
    found: dict[str, list[PlannedCell]] = {}
    for planned in report.cells:
        found.setdefault(planned.cell.layer_subset, []).append(planned)
    return found


def _pictures(report: SweepReport, index: SweepIndex) -> list[Picture]:
    primary, strict = index.primary, MEASURES["strict_rate"]
    n_targeted, note = plural(len(shown_subsets(index)), "targeted subset"), shown_note(index)
    measures = join_names(measure.label for measure in dict.fromkeys((primary, strict)))
    pictures = [
        Picture(
            wide=embed(subset_bars(report)),
            narrow=embed(subset_bars(report, narrow=True)),
            alt=f"Bars: {measures} of {n_targeted} at the lowest scale, beside the baseline. "
            "The result table gives the figures.",
            caption=f"{'Targeted subsets' if note else 'Every targeted subset'} at the lowest scale. Bars are "
            "estimates, whiskers their intervals; circles are random subsets matched in number and kind to the subset "
            f"above them.{note}",
        )
    ]
    for measure in dict.fromkeys((primary, strict)):
        pictures.append(
            Picture(
                wide=embed(dose_response(report, measure.name)),
                narrow=embed(dose_response(report, measure.name, narrow=True)),
                alt=f"Lines: {measure.label} against scale, a panel for each of {n_targeted}. "
                "The result table gives the figures.",
                caption=f"{measure.label} against the scale of the subset's output; at scale 1 nothing is changed, "
                f"and all subsets share that point. Random controls are drawn a little beside their scale.{note}",
            )
        )
    pictures.append(
        Picture(
            wide=embed(backtracking_against_accuracy(report)),
            narrow=embed(backtracking_against_accuracy(report, narrow=True)),
            alt=f"Points: {primary.label} against accuracy for every measured cell. "
            "The result table gives the figures.",
            caption=f"{primary.label} against accuracy. A specific effect moves straight down from the baseline; one "
            "that breaks the model moves left. Lines join the scales of one subset; a number beside a point is its "
            f"scale.{note}{' All other cells are small dots.' if note else ''}",
        )
    )
    return pictures


def _subset_rows(report: SweepReport, index: SweepIndex) -> list[SubsetRow]:
    """One row for each subset, at its lowest planned scale; controls that are set apart come last."""
    rows: list[SubsetRow] = []
    for name, own in _by_subset(report).items():
        planned = min(own, key=lambda p: p.cell.scale)
        value = index.value(planned.cell, "wrong_step_share")
        notes = ["not measured"] if planned.status == "missing" else []
        notes += [f"{does} than the baseline" for does in index.damage(planned.cell)]
        accuracy = index.comparison(planned.cell, "accuracy")
        if accuracy is not None and accuracy.high is not None and accuracy.high < 0:
            notes.append(f"accuracy differs by {format_difference(accuracy, MEASURES['accuracy'])}")
        rows.append(
            SubsetRow(
                name=name,
                components=format_components(planned.components),
                control_of=planned.control_of,
                wrong_steps=format_measurement(value, MEASURES["wrong_step_share"]),
                note="; ".join(notes),
                set_apart=planned.control_of is not None and bool(index.damage(planned.cell)),
            )
        )
    return sorted(rows, key=lambda row: row.set_apart)
