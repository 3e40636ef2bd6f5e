"""The page of one cell: its figures against the baseline, its checks, its condition, some of its completions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from backtracking_assets.measures import MEASURES, Measure
from backtracking_assets.reporting.class_figure import Row as ClassRow
from backtracking_assets.reporting.class_figure import class_bars
from backtracking_assets.reporting.contents import CellReport
from backtracking_assets.reporting.figures import cell_overview
from backtracking_assets.reporting.formats import (
    equals_p,
    format_components,
    format_difference,
    format_measurement,
    format_p,
    plural,
)
from backtracking_assets.reporting.measured import (
    Comparison,
    Measurement,
    comparisons,
    measurements,
    primary_measure,
)
from backtracking_assets.reporting.page import Picture, embed, failed_checks, render_page
from backtracking_assets.reporting.style import house_style


@dataclass(frozen=True)
class MeasureRow:
    """One measure of the cell as text."""

    measure: Measure
    value: str
    n: str
    baseline: str
    difference: str
    p_value: str
    p_holm: str
    method: str


@house_style()
def render_cell_report(report: CellReport, overview: Figure | None = None) -> str:
    """The HTML page of one cell, complete in one file; the same report gives the same text.

    `overview` is its `figures.cell_overview`, where that is drawn already.

    Raises:
        ValueError: a frame has two rows of one measure, or the primary measure does not exist.
    """
    own = {name: value for (cell, name), value in measurements(report.metrics).items() if cell == report.cell}
    baseline: dict[str, Measurement] = {}
    if report.baseline_metrics is not None:
        baseline = {name: value for (_, name), value in measurements(report.baseline_metrics).items()}
    compared: dict[str, Comparison] = {}
    if report.comparisons is not None:
        compared = {
            name: value for (cell, name), value in comparisons(report.comparisons).items() if cell == report.cell
        }
    leading = primary_measure(report.primary_measure)
    failed = failed_checks(report.checks)
    return render_page(
        "cell_report.html.j2",
        report=report,
        study=report.study,
        provenance=report.provenance,
        lead=_lead(report),
        result=_result(report, leading, own, baseline, compared),
        check_summary=_check_summary(report, len(failed)),
        checks=[*failed, *(check for check in report.checks if check.passed)],
        picture=Picture(
            wide=embed(overview or cell_overview(report)),
            narrow=None,
            alt=f"Main shares of {report.cell}, with intervals; the table below gives the figures.",
            caption="Main shares with their intervals; the figures at the right are this cell's.",
        ),
        class_picture=Picture(
            wide=embed(class_bars(_class_rows(report, own, baseline))),
            narrow=None,
            alt=f"Shares of the classes of completions of {report.cell}; the table below gives the figures.",
            caption="Every completion has one class.",
        ),
        rows=[_row(name, own, baseline, compared) for name in MEASURES if name in own],
        condition=json.dumps(dict(report.condition), indent=2, sort_keys=True, ensure_ascii=False),
    )


def _class_rows(
    report: CellReport, own: Mapping[str, Measurement], baseline: Mapping[str, Measurement]
) -> list[ClassRow]:
    beside: list[ClassRow] = [("baseline", baseline.get)] if baseline else []
    return [(str(report.cell), own.get), *beside]


def _lead(report: CellReport) -> str:
    if report.is_baseline:
        return "The baseline: no output is scaled."
    lead = f"Scaled by {report.cell.scale:g} at decode steps: {format_components(report.components)}."
    if report.control_of is not None:
        lead += f" A random control matched to {report.control_of}."
    return lead


def _result(
    report: CellReport,
    leading: Measure,
    own: Mapping[str, Measurement],
    baseline: Mapping[str, Measurement],
    compared: Mapping[str, Comparison],
) -> str:
    value = own.get(leading.name)
    if value is None or value.estimate is None:
        return f"“{leading.label}” has not been measured."
    result = f"“{leading.label}” is {format_measurement(value, leading)}"
    if report.is_baseline:
        return f"{result}."
    if leading.name not in baseline:
        return f"{result}; the baseline has not been measured, so there is nothing to compare it with."
    result += f", at the baseline {format_measurement(baseline[leading.name], leading)}"
    comparison = compared.get(leading.name)
    if comparison is None or comparison.difference is None:
        return f"{result}; the two have not been compared in pairs."
    # Without the correction the p says less; which of the two it is must be plain.
    p = f"Holm-corrected {equals_p(comparison.p_holm)}" if comparison.p_holm is not None else "not corrected yet"
    return f"{result}: a paired difference of {format_difference(comparison, leading)} ({p})."


def _check_summary(report: CellReport, n_failed: int) -> str:
    if not report.checks:
        return "No check has been recorded."
    if not n_failed:
        return f"All {plural(len(report.checks), 'check')} passed."
    return f"{n_failed} of {plural(len(report.checks), 'check')} failed."


def _row(
    name: str,
    own: Mapping[str, Measurement],
    baseline: Mapping[str, Measurement],
    compared: Mapping[str, Comparison],
) -> MeasureRow:
    measure, value, comparison = MEASURES[name], own[name], compared.get(name)
    return MeasureRow(
        measure=measure,
        value=format_measurement(value, measure),
        n=f"{plural(value.n, measure.per)} of {plural(value.n_problems, 'problem')}",
        baseline=format_measurement(baseline.get(name), measure),
        difference=format_difference(comparison, measure),
        p_value=format_p(comparison.p_value if comparison else None),
        p_holm=format_p(comparison.p_holm if comparison else None),
        method="; ".join(dict.fromkeys(filter(None, (value.method, comparison.method if comparison else "")))),
    )
