"""The two pages: complete in one file, harmless whatever the completions hold, the same for the same contents."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.records import COMPARISONS, METRICS, Cell
from backtracking_assets.reporting.cell_report import render_cell_report
from backtracking_assets.reporting.contents import CheckOutcome, Completion, study_of
from backtracking_assets.reporting.page import unbroken_interval
from backtracking_assets.reporting.sweep_report import missing_cells, render_sweep_report
from backtracking_assets.reporting.text import is_hidden
from backtracking_assets_tests.unit.reporting_samples import (
    ABLATED,
    BASELINE,
    CONTROL,
    OTHER,
    PLAIN,
    STUDY,
    TARGET,
    VALUES,
    cell_report,
    example,
    sweep_report,
    without,
)

VOID = {"meta", "source", "img", "br", "wbr"}
HOSTILE = (
    "</pre></main><script>alert(1)</script>\u202e\x00\ud800\x1b[31m<img src=http://x.example onerror=a()>{{ 7*7 }}"
)


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.shown: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.shown.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.shown).split())


@pytest.fixture(scope="module")
def sweep_html() -> str:
    return render_sweep_report(sweep_report())


def test_the_same_contents_give_the_same_page(sweep_html: str) -> None:
    assert render_sweep_report(sweep_report()) == sweep_html
    assert render_cell_report(cell_report()) == render_cell_report(cell_report())


def test_the_sweep_page_needs_nothing_else_and_runs_nothing(sweep_html: str) -> None:
    page = Page(sweep_html)
    assert page.tags["script"] == page.tags["link"] == 0
    targets = [value for _, name, value in page.attributes if name in ("src", "srcset", "href", "action")]
    assert targets
    assert all(value.startswith("data:image/svg+xml;base64,") for value in targets)
    assert "default-src 'none'" in sweep_html
    assert "url(" not in sweep_html
    assert "@import" not in sweep_html


def test_the_sweep_page_says_what_a_reader_needs(sweep_html: str) -> None:
    text = Page(sweep_html).text
    for wanted in (
        STUDY.title,
        STUDY.disclaimer,
        "attn_no_early at scale 0 lowers “Wait after a wrong step” most",
        "6 of 6 planned cells done",
        "0.01 [0.00, 0.06]",
        "No check has been recorded.",
        "backtracking sweep",
        "abc1234",
        "torch 2.13.0",
        "a processor",
        "sampling 42",
        "2,310 tokens per second",
        "2026-01-03 09:05 UTC to 2026-01-03 09:41 UTC",
        "d" * 64,
    ):
        assert wanted in text
    assert "What is missing" not in text


def test_the_pages_can_be_read_by_machines_that_read_aloud(sweep_html: str) -> None:
    for html in (sweep_html, render_cell_report(cell_report())):
        page = Page(html)
        assert page.tags["h1"] == 1
        assert ("html", "lang", "en") in page.attributes
        alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
        assert len(alts) == page.tags["img"] > 0
        assert all(len(alt) > 20 for alt in alts)
        assert page.tags["figcaption"] == page.tags["figure"]
        ids = {value for _, name, value in page.attributes if name == "id"}
        assert {value for _, name, value in page.attributes if name.startswith("aria-") and name.endswith("by")} <= ids


def test_a_partial_sweep_says_what_is_missing() -> None:
    report = without(sweep_report(), Cell(OTHER, 0.0), Cell(TARGET, 0.5))
    cells = tuple(replace(c, status="partial", n_completions=12) if c.cell == ABLATED else c for c in report.cells)
    report = replace(report, cells=cells)
    assert missing_cells(report) == [
        "attn_no_early: missing at scale 0.5; part done at scale 0 (12 of 480 completions)",
        "mlp_27_only: missing at scale 0",
    ]
    text = Page(render_sweep_report(report)).text
    assert "3 of 6 planned cells done" in text
    assert "What is missing" in text


def test_an_empty_sweep_is_a_page() -> None:
    report = replace(
        without(sweep_report(examples=()), *VALUES),
        metrics=METRICS.empty_table().to_pandas(),
        comparisons=COMPARISONS.empty_table().to_pandas(),
    )
    text = Page(render_sweep_report(report)).text
    assert "No answer yet" in text
    assert "There are no examples." in text


def test_controls_and_failed_checks_are_listed() -> None:
    values = dict(VALUES) | {Cell(CONTROL, 0.0): (0.5, 0.9, 0.1, 0.9)}
    report = sweep_report(values)
    failed = CheckOutcome("truncation", False, "warning", "41% ended at the cap.")
    cells = tuple(replace(c, checks=(failed,)) if c.cell == ABLATED else c for c in report.cells)
    text = Page(render_sweep_report(replace(report, cells=cells))).text
    assert "makes more wrong steps than the baseline" in text
    assert "warning truncation : 41% ended at the cap." in text.replace("truncation:", "truncation :")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.42 [0.37, 0.47] (n = 9)", '0.42 <span class="nowrap">[0.37, 0.47] (n = 9)</span>'),
        ("–", "–"),
        ("<0.001", "&lt;0.001"),
    ],
)
def test_an_interval_is_never_broken(value: str, expected: str) -> None:
    assert unbroken_interval(value) == expected


def test_a_hostile_completion_stays_text() -> None:
    hostile = Completion(HOSTILE, (), "no_answer", "non_finite", HOSTILE)
    shown = example(problem_id=HOSTILE, question=HOSTILE, reference_answer=HOSTILE, completion=hostile, baseline=None)
    shown = replace(shown, no_baseline_because=HOSTILE)
    provenance = replace(sweep_report().provenance, command=HOSTILE, devices=(HOSTILE,), run_ids=(HOSTILE,))
    study = replace(STUDY, title=HOSTILE, disclaimer=HOSTILE, seeds={HOSTILE: 1})
    cell = cell_report(
        study=study,
        examples=(shown,),
        provenance=provenance,
        condition={HOSTILE: HOSTILE},
        checks=(CheckOutcome(HOSTILE, False, "error", HOSTILE),),
    )
    for html in (
        render_cell_report(cell),
        render_sweep_report(sweep_report(study=study, examples=(shown,), provenance=provenance)),
    ):
        page = Page(html)
        assert page.tags["script"] == 0
        assert page.tags["img"] == page.tags["figure"]
        assert not any(map(is_hidden, html))
        assert "{{ 7*7 }}" in page.text
        html.encode()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=300))
def test_any_completion_gives_a_page(text: str) -> None:
    html = render_cell_report(cell_report(examples=(example(question=text, completion=replace(PLAIN, text=text)),)))
    assert Page(html).tags["article"] == 1
    assert not any(map(is_hidden, html))


def test_a_huge_completion_makes_no_huge_page() -> None:
    text = "9" * 10_000_000
    shown = example(question=text, reference_answer=text, completion=replace(PLAIN, text=text))
    assert len(render_cell_report(cell_report(examples=(shown,)))) < 200_000


def test_the_cell_page_sets_the_cell_beside_the_baseline() -> None:
    text = Page(render_cell_report(cell_report())).text
    assert "Scaled by 0 at decode steps: attention 15, 17." in text
    assert "is 0.01 [0.00, 0.06], at the baseline 0.58 [0.53, 0.63]: a paired difference of −0.57" in text
    assert "1 of 2 checks failed." in text
    assert text.index("warning truncation") < text.index("passed row_count")  # failures first
    assert "231 wrong steps of 120 problems" in text
    assert '"dtype": "float32"' in text
    assert "f" * 64 in text


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (cell_report(BASELINE), "The baseline: no output is scaled. “Wait after a wrong step” is 0.58 [0.53, 0.63]."),
        (cell_report(baseline_metrics=None), "the baseline has not been measured"),
        (cell_report(comparisons=None), "the two have not been compared in pairs"),
        (cell_report(metrics=METRICS.empty_table().to_pandas()), "“Wait after a wrong step” has not been measured."),
        (cell_report(control_of=OTHER), "A random control matched to mlp_27_only."),
        (cell_report(checks=()), "No check has been recorded."),
        (cell_report(primary_measure=None), "“Strict rate” is 0.07"),
    ],
)
def test_the_cell_page_says_what_it_lacks(report, expected: str) -> None:
    assert expected in Page(render_cell_report(report)).text


def test_a_study_carries_the_facts_and_every_seed_of_its_experiment() -> None:
    experiment = load_experiment("organism")
    study = study_of(experiment)
    assert study.completions_per_cell == experiment.completions_per_cell
    assert study.disclaimer == experiment.disclaimer != ""
    assert study.seeds["sampling"] == experiment.sampling.seed
    assert {f"random controls of {control.of}" for control in experiment.controls.random} <= set(study.seeds)


def test_every_style_name_used_is_defined(sweep_html: str) -> None:
    html = sweep_html + render_cell_report(cell_report())
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    used = {name for value in re.findall(r'class="([^"]*)"', html) for name in value.split()}
    assert used - {"left"} <= set(re.findall(r"\.([a-z-]+)", style[1]))
