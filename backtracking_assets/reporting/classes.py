"""The sweep page's section on classes: genuine, filler and silent by cell, and how far the rules can be trusted."""

from collections.abc import Mapping, Sequence
from typing import Any

from backtracking_assets.measures import MEASURES
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import Cell
from backtracking_assets.reporting.class_figure import Row, class_bars
from backtracking_assets.reporting.contents import ClassRules, SweepReport
from backtracking_assets.reporting.formats import NOT_MEASURED, format_difference, format_measurement, plural
from backtracking_assets.reporting.measured import SweepIndex
from backtracking_assets.reporting.page import Picture, embed
from backtracking_assets.reporting.shown_subsets import shown_note, shown_subsets

SHARES = ("genuine_share", "silent_share", "filler_share")


def class_section(report: SweepReport, index: SweepIndex) -> dict[str, Any]:
    """The values of the section: the figure, the table of shares, and what is known of the rules."""
    rows, note = _figure_rows(report, index), shown_note(index)
    rules = report.class_rules
    return {
        "picture": Picture(
            wide=embed(class_bars(rows)),
            narrow=embed(class_bars(rows, narrow=True)),
            alt="Stacked bars: the share of each class of completions, at the baseline and for every subset at its "
            "lowest scale. The table gives the figures.",
            caption="Every completion has one class. The baseline, then every subset at its lowest scale."
            if not note
            else f"Every completion has one class. The baseline, then targeted subsets at their lowest scale.{note}",
        ),
        "columns": [MEASURES[name].label for name in SHARES],
        "rows": _table_rows(report, index),
        "method": method_sentences(rules),
        "golden": golden_rows(rules.golden) if rules is not None and rules.golden is not None else [],
        "n_golden": rules.golden["passages"]["n"] if rules is not None and rules.golden is not None else 0,
        "agreement": list(rules.agreement) if rules is not None else [],
    }


def method_sentences(rules: ClassRules | None) -> list[str]:
    """How the classes were found, and how that was measured or why it was not."""
    if rules is None:
        return []
    sentences = ["Changed steps are found without looking at triggers; a trigger is genuine if it announces one."]
    if rules.exact:
        sentences.append(
            "Here they are exact: a line of arithmetic that repeats the operation of the line before with another "
            "result, unless the problem asks for that operation again."
        )
    else:
        sentences.append(
            "They are found by stated rules on the words (docs/classes.md), which miss what only the meaning shows: "
            "a trigger may count as filler though it is genuine."
        )
    if rules.agreement:
        n = sum(count for _, _, count in rules.agreement)
        same = sum(count for exact, found, count in rules.agreement if exact == found)
        sentences.append(
            f"The rules for other text, applied to the same {plural(n, 'completion')} of the baseline, give the exact "
            f"class in {same:,}."
        )
    if rules.golden is None:
        sentences.append(f"Precision and recall of the text rules are not shown. {rules.golden_absent_because}")
    else:
        n, agree = rules.golden["passages"]["n"], rules.golden["passages"]["agree"]
        sentences.append(
            f"The text rules were measured on {n} synthetic passages, written and labelled by this project and held "
            f"out while the rules were made: {_interval(agree)} get the class of their label. A real model's text is "
            "more varied, and the rules may do worse there."
        )
    return sentences


def golden_rows(golden: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """What is classed, the class, precision and recall, each with interval and n."""
    return [
        (
            what,
            name.replace("_", " "),
            _interval(figures["precision"], "found"),
            _interval(figures["recall"], "labelled"),
        )
        for what, key in (("passage", "passages"), ("trigger", "events"))
        for name, figures in golden[key]["classes"].items()
    ]


def _interval(share: Sequence[float] | None, of: str = "") -> str:
    if share is None:
        return NOT_MEASURED
    estimate, low, high, n = share
    return f"{estimate:.2f} [{low:.2f}, {high:.2f}]" + (f" of {n} {of}" if of else "")


def _lowest(report: SweepReport) -> list[Cell]:
    """Each planned subset's cell of the lowest scale, without the baseline."""
    found: dict[str, Cell] = {}
    for planned in sorted(report.cells, key=lambda planned: planned.cell.scale):
        if planned.cell.scale != BASELINE_SCALE:
            found.setdefault(planned.cell.layer_subset, planned.cell)
    names = dict.fromkeys(planned.cell.layer_subset for planned in report.cells)
    return [found[name] for name in names if name in found]


def _figure_rows(report: SweepReport, index: SweepIndex) -> list[Row]:
    rows: list[Row] = [("baseline", index.baseline)]
    shown = shown_subsets(index)
    part = [cell for cell in _lowest(report) if len(shown) == len(index.targeted()) or cell.layer_subset in shown]
    for cell in part:
        rows.append((str(cell), lambda name, cell=cell: index.value(cell, name)))
    return rows


def _table_rows(report: SweepReport, index: SweepIndex) -> list[list[str]]:
    """Share and paired difference by cell, the baseline first."""
    rows = [["baseline", *(format_measurement(index.baseline(name), MEASURES[name]) for name in SHARES), "", "", ""]]
    for cell in _lowest(report):
        values = [format_measurement(index.value(cell, name), MEASURES[name]) for name in SHARES]
        differences = [format_difference(index.comparison(cell, name), MEASURES[name]) for name in SHARES]
        rows.append([str(cell), *values, *differences])
    return rows
