"""Phase 1's sections and page: they say what was counted, what is missing, and nothing that is not there."""

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from backtracking_assets.analysis.backtracking_accuracy import backtracking_against_accuracy
from backtracking_assets.analysis.comparisons import compare_cells
from backtracking_assets.analysis.condition_comparison import ConditionRows, compare_conditions
from backtracking_assets.analysis.formatting import compare_variants
from backtracking_assets.analysis.metrics import cell_metrics
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.records import Cell
from backtracking_assets.reporting.backtracking_accuracy import (
    BacktrackingResults,
    backtracking_section,
)
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.reporting.formatting import (
    ConditionResults,
    FormattingResults,
    conditions_section,
    formatting_section,
)
from backtracking_assets.reporting.phase1_report import Checked, Phase1Report, PromptText, render_phase1_report
from backtracking_assets.reporting.sections import Section, SectionTable, not_measured
from backtracking_assets.reporting.tables import Column
from backtracking_assets_tests.unit.phase1_samples import COUNTED, NONE, PROBLEMS, WRONG, cell_rows
from backtracking_assets_tests.unit.reporting_samples import PROVENANCE, STUDY

STATISTICS = Statistics(resamples=300)
MUTED = [(p, s, False, v) for p, s, _, v in COUNTED]
BROKEN = [(p, s, t, WRONG if s else NONE) for p, s, t, _ in COUNTED]
SHARED: dict[str, Any] = {"problem_set_digest": "set", "statistics": STATISTICS, "run_id": "r"}
VARIANTS = {"plain": cell_rows(fingerprint="a"), "broken": cell_rows(BROKEN, fingerprint="b")}


def formatting_results() -> FormattingResults:
    table = compare_variants(VARIANTS, "plain", PROBLEMS, inputs_digest="i", **SHARED)
    return FormattingResults(table.to_pandas(), ("plain", "broken"), "strict_rate", 0.95)


def backtracking_results() -> BacktrackingResults:
    table = backtracking_against_accuracy(VARIANTS, inputs_digest="i", **SHARED)
    return BacktrackingResults(table.to_pandas(), ("plain", "broken"), 0.95)


def condition_results() -> ConditionResults:
    baseline = cell_rows(fingerprint="base", cell=Cell("attn_1", 1.0))
    rows = []
    for cell, role, given in (
        (Cell("attn_1", 1.0), "baseline", COUNTED),
        (Cell("attn_1", 0.0), "targeted", MUTED),
        (Cell("random_1_of_attn_1", 0.0), "random", BROKEN),
    ):
        own = baseline if role == "baseline" else cell_rows(given, fingerprint=str(cell), cell=cell)
        metrics = cell_metrics(own.completions, own.detections, PROBLEMS, cell=cell, **SHARED).to_pylist()
        compared = compare_cells([own], baseline, **SHARED).to_pylist()
        rows.append(ConditionRows(cell, role, metrics, compared))  # type: ignore[arg-type]
    return ConditionResults(
        rows=compare_conditions(rows, n_planned=3, inputs_digest="i", run_id="r").to_pandas(),
        labels={
            ("attn_1", 1.0): "baseline",
            ("attn_1", 0.0): "attn_1 at 0",
            ("random_1_of_attn_1", 0.0): "random_1_of_attn_1 at 0",
        },
        targeted="attn_1 at 0",
        missing=("random_2_of_attn_1 at 0",),
        primary="strict_rate",
        confidence=0.95,
        components=(("attn_1 at 0", "attention 1"), ("random_1_of_attn_1 at 0", "attention 0")),
    )


def by_title(section: Section, row: str) -> dict[str, str]:
    shown: dict[str, str] = {}
    for table in section.tables:
        for values in table.rows:
            if values[0] == row:
                shown |= {column.title: value for column, value in zip(table.columns, values, strict=True)}
    return shown


def test_the_section_on_formatting_shows_what_was_counted() -> None:
    section = formatting_section(formatting_results(), "Form")
    assert section.paragraphs[0].startswith("Strict rate: 0.44 [")
    row = by_title(section, "broken")
    assert row["Accuracy"].startswith("0.00 [0.00, ")
    assert row["answers"] == "6"
    assert row["Δ Accuracy"].startswith("−0.56 [")
    # What the others are compared with has no difference of its own.
    assert "Δ Accuracy" not in by_title(section, "plain")


def test_the_section_on_conditions_says_which_are_missing() -> None:
    section = conditions_section(condition_results(), "Conditions")
    assert section.paragraphs[0].startswith("Strict rate: 0.44 [")
    assert "attn_1 at 0 differs by −0.44 [" in section.paragraphs[0]
    assert section.paragraphs[0].endswith("its 1 random control by 0.00.")
    assert "Missing, and therefore not compared: random_2_of_attn_1 at 0." in section.paragraphs[-1]
    row = by_title(section, "attn_1 at 0")
    assert (row["components"], row["Δ Strict rate"][:5]) == ("attention 1", "−0.44")
    assert [values[0] for values in section.tables[0].rows] == ["baseline", "attn_1 at 0", "random_1_of_attn_1 at 0"]
    assert section.tables[0].rows[0][1] == "none"


def test_the_section_on_backtracking_counts_both_kinds_and_calls_it_an_association() -> None:
    section = backtracking_section(backtracking_results(), "Association")
    assert "of 4 completions with a strict trigger, 0.75 [" in section.paragraphs[0]
    assert "of 5 without one 0.40 [" in section.paragraphs[0]
    assert "Within 3 problems with completions of both kinds it is +0.50 [" in section.paragraphs[0]
    assert "association, not a cause" in section.paragraphs[-1]
    answered = [values for values in section.tables[0].rows if values[:2] == ("plain", "completions with an answer")]
    assert "(3 of 3)" in answered[0][4]


@cache
def some_sections() -> tuple[Section, ...]:
    return sections()


def sections() -> tuple[Section, ...]:
    return (
        formatting_section(formatting_results(), "Form"),
        conditions_section(condition_results(), "Conditions"),
        backtracking_section(backtracking_results(), "Association"),
        not_measured("Logit lens", "backtracking sweep organism --job phase1_logit_lens"),
    )


def report(**changes: Any) -> Phase1Report:
    made = Phase1Report(
        study=STUDY,
        question=("What is asked?",),
        setup=(("Model", "organism <b>"),),
        variants=(PromptText("plain", "Q: {question}\n", "<think>", True),),
        sections=some_sections(),
        controls=("Shared noise.",),
        control_table=None,
        checked=(
            Checked("Prompt variant plain", (CheckOutcome("truncation", False, "warning", "Many were cut."),)),
            Checked("attn_1 at 0", (CheckOutcome("row_count", True, "error", "9 of 9."),)),
        ),
        limits=("One model.",),
        version="d" * 64,
        provenance=replace(
            PROVENANCE,
            command="git checkout abc1234\nbacktracking sweep organism --job phase1",
            host="a processor, 2 cores",
            checkpoint={"weights": "w" * 64},
            conditions={"variant plain": "f" * 64},
        ),
    )
    return replace(made, **changes)


def test_the_page_shows_every_part_in_order() -> None:
    page = render_phase1_report(report())
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Question",
        "In short",
        "What is missing",
        "Set-up",
        "Form",
        "Conditions",
        "Association",
        "Logit lens",
        "Controls",
        "Checks that failed",
        "Limits",
        "How to reproduce",
    ]
    assert "3 of 4 results measured" in page
    assert "Not measured yet, or older than its inputs; `backtracking sweep organism --job phase1_logit_lens`" in page
    assert "organism &lt;b&gt;" in page
    assert "Many were cut." in page
    assert "9 of 9." not in page
    for shown in ("git checkout abc1234", "w" * 64, "f" * 64, "a processor, 2 cores", "abc1234", "torch 2.13.0"):
        assert shown in page
    assert page.count("<img ") == 3
    assert re.search(r'(src|href)="http', page) is None


def test_the_same_results_give_the_same_page() -> None:
    assert render_phase1_report(report()) == render_phase1_report(report(sections=sections()))


def test_a_page_without_results_says_so() -> None:
    page = render_phase1_report(report(sections=(not_measured("Form", "x"),), checked=()))
    assert "Nothing is measured yet." in page
    assert "No check has been recorded." in page


def test_a_table_of_ragged_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="has 2 columns and a row of 1"):
        SectionTable("Ragged", (Column("a", "left"), Column("b", "left")), (("1",),))
