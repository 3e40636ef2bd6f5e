"""The continuation ablation on the sweep's page: sentence, table, figure and limits, or why it is absent."""

import re
from dataclasses import replace
from typing import Any

import pytest

from backtracking_assets.analysis.continuation_summaries import summarize
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.reporting.contents import ContinuationResults, ContinuationSection
from backtracking_assets.reporting.continuation import continuation_answer, continuation_limits, continuation_table
from backtracking_assets.reporting.continuation_figure import continuation_figure
from backtracking_assets.reporting.style import to_png, to_svg
from backtracking_assets.reporting.sweep_report import render_sweep_report
from backtracking_assets_tests.unit.continuation_samples import STRONG, WEAK, positions_of, samples_of
from backtracking_assets_tests.unit.reporting_samples import sweep_report


def results(**changes: Any) -> ContinuationResults:
    table = summarize(
        positions_of(),
        samples_of(),
        problem_set_digest="problems",
        rules_digest="rules",
        statistics=Statistics(resamples=200),
        run_id="run",
    )
    made = ContinuationResults(
        cells=(STRONG, WEAK),
        summaries=table.to_pandas(),
        confidence=0.95,
        temperature=0.7,
        top_p=0.95,
        continuations=10,
        max_new_tokens=6,
        n_found=20,
        n_at_first_token=3,
        n_wanted=12,
        n_events=12,
        n_event_problems=6,
        n_controls=12,
        n_control_problems=6,
        n_same_index=9,
        largest_distance=4,
    )
    return replace(made, **changes)


def without(found: ContinuationResults, **values: Any) -> ContinuationResults:
    """The results without the rows of these values."""
    frame = found.summaries
    kept = ~(frame[list(values)] == list(values.values())).all(axis=1)
    return replace(found, summaries=frame[kept])


def test_the_answer_names_the_largest_drop_and_what_it_rests_on() -> None:
    answer = continuation_answer(results())
    assert answer.startswith("strong at 0, at the one position before the onset, takes the onset token's probability")
    assert "over 12 events of 6 problems" in answer
    assert "at 12 matched positions without an event" in answer


def test_the_answer_claims_no_drop_that_is_not_clear() -> None:
    found = results()
    found.summaries.loc[found.summaries["measure"] == "onset_probability", "difference_high"] = 0.01
    assert continuation_answer(found).startswith("No intervention at the one position before the onset clearly lowers")


def test_the_answer_without_controls() -> None:
    answer = continuation_answer(without(results(), kind="control"))
    assert answer.endswith(").")
    assert "matched" not in answer


def test_the_table_has_a_row_for_the_unscaled_run_and_each_intervention() -> None:
    table = continuation_table(results())
    assert [row[:2] for row in table.rows] == [("(unscaled)", "1"), ("strong", "0"), ("weak", "0.5")]
    assert all(len(row) == len(table.columns) for row in table.rows)
    titles = [column.title for column in table.columns]
    strong = dict(zip(titles, table.rows[1], strict=True))
    assert strong["Δ p(onset)"].startswith("−0.")
    assert strong["again, from there on"].startswith("0.00 [0.00")
    assert dict(zip(titles, table.rows[0], strict=True))["Δ p(onset)"] == "–"


def test_a_figure_that_is_missing_is_a_dash() -> None:
    table = continuation_table(without(results(), layer_subset="weak", measure="entropy", kind="event"))
    titles = [column.title for column in table.columns]
    assert table.rows[2][titles.index("entropy")] == "–"


def test_limits_count_what_was_left_out() -> None:
    limits = " ".join(continuation_limits(results(n_controls=11)))
    assert "in 20 completions of the baseline; 3 at the first token" in limits
    assert "and 5 more are left out" in limits
    assert "9 at the same token index, the others up to 4 tokens away" in limits
    assert "For 1 events there was none left." in limits
    assert "all at the same token index" in " ".join(continuation_limits(results(n_same_index=12)))


@pytest.mark.parametrize("narrow", [False, True])
def test_the_figure_is_drawn_and_the_same_each_time(narrow: bool) -> None:
    first, again = (to_svg(continuation_figure(results(), narrow)) for _ in range(2))
    assert first == again
    assert to_png(continuation_figure(without(results(), kind="control"), narrow)).startswith(b"\x89PNG")


def test_the_page_shows_the_section() -> None:
    page = render_sweep_report(sweep_report(continuation=ContinuationSection(results())))
    section = re.search(r"<h2>Where the baseline began to backtrack</h2>.*?<h2>", page, flags=re.DOTALL)
    assert section is not None
    for text in ("strong at 0, at the one position", "<img ", "p(triggers)", "12 events of 6 problems"):
        assert text in section.group()


def test_the_page_says_why_there_is_no_section() -> None:
    page = render_sweep_report(sweep_report(continuation=ContinuationSection(None, "It was <never> asked for.")))
    assert "The continuation ablation is not shown. It was &lt;never&gt; asked for." in page
    assert "The experiment file has no section for it." in render_sweep_report(sweep_report())
