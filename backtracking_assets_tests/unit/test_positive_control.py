"""The positive control: what it says where the method finds what was planted, and where it does not."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from backtracking_assets.analysis.planted_truth import PlantedTruth, read_truth
from backtracking_assets.analysis.positive_control import (
    judged_rankings,
    rank_among_draws,
    ranked_components,
    refuse_unfit,
)
from backtracking_assets.errors import BacktrackingError, ExperimentError
from backtracking_assets.reporting.positive_control import answers, control_sections, render_control_report
from backtracking_assets.reporting.positive_control_figures import (
    importance_figure,
    precision_recall_figure,
    recall_and_precision,
)
from backtracking_assets.reporting.positive_control_verdict import verdict, ways
from backtracking_assets.reporting.style import to_svg
from backtracking_assets.storage.rows import conform
from backtracking_assets.storage.tables import TABLES
from backtracking_assets_tests.unit.positive_control_samples import (
    BREAKERS,
    FIXED,
    GOOD,
    MARGIN,
    PLANTED,
    STATISTICS,
    read_made_truth,
    report_of,
    results_of,
    scores_with,
    subset,
    truth_document,
    write_truth,
)

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def truth(tmp_path: Path) -> PlantedTruth:
    return read_made_truth(tmp_path)


def test_planted_is_not_the_same_as_causal(truth: PlantedTruth) -> None:
    assert truth.planted == set(PLANTED)
    assert truth.causal(MARGIN) == {(1, "attention"), (2, "mlp")}
    assert truth.causal(0.0) == set(PLANTED)
    assert truth.drop_of(4, "mlp") is None


@pytest.mark.parametrize("name", ["organism", "organism_2"])
def test_the_shipped_truths_are_read(name: str) -> None:
    truth = read_truth(DATA / name / "known_truth.json")
    assert len(truth.planted) == 8
    causal = truth.causal(MARGIN)
    assert causal == truth.planted if name == "organism" else truth.planted - causal == {(18, "mlp"), (20, "mlp")}
    assert dict(truth.together)["all planted"].estimate > 0.8


def test_a_truth_that_is_none_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"known_truth\.json cannot be read \(No such file"):
        read_truth(tmp_path / "known_truth.json")
    (tmp_path / "known_truth.json").write_text('{"probes": 3}', encoding="utf-8")
    with pytest.raises(ExperimentError, match="is no known_truth"):
        read_truth(tmp_path / "known_truth.json")
    for content in (b"\xff\xfe", b"[]", b"", b'{"probes": NaN}'):
        (tmp_path / "known_truth.json").write_bytes(content)
        with pytest.raises(ExperimentError, match="is no known_truth"):
            read_truth(tmp_path / "known_truth.json")


@pytest.mark.parametrize("kept", [[0, 1], [0, 1, 2, 2], []])
def test_a_truth_that_measures_other_components_is_refused(tmp_path: Path, kept: list[int]) -> None:
    rows = truth_document()["put_back_one"]
    path = write_truth(tmp_path, put_back_one=[rows[number] for number in kept])
    with pytest.raises(ExperimentError, match="does not measure each planted component once"):
        read_truth(path)


def test_the_rows_fit_their_tables(truth: PlantedTruth) -> None:
    components = ranked_components([GOOD, BREAKERS], truth, MARGIN, FIXED)
    figures = judged_rankings([GOOD, BREAKERS], truth, MARGIN, STATISTICS, FIXED)
    for name, table in (("positive_control_components", components), ("positive_control_figures", figures)):
        assert conform(table, TABLES[name].schema).num_rows
        keys = list(zip(*(table[column].to_pylist() for column in TABLES[name].key), strict=True))
        assert len(set(keys)) == len(keys)


def test_ranks_are_those_of_the_importance(truth: PlantedTruth) -> None:
    rows = {
        (row["measure"], row["layer"], row["component"]): row
        for row in ranked_components([GOOD, BREAKERS], truth, MARGIN, FIXED).to_pylist()
    }
    assert [rows["specific_drop", *pair]["rank"] for pair in PLANTED] == [1, 2, 3]
    assert [rows["specific_drop", *pair]["rank_of_kind"] for pair in PLANTED] == [1, 1, 2]
    assert rows["onset_logit", 0, "attention"]["rank"] == 1
    assert rows["onset_logit", 1, "attention"]["rank"] == 4
    assert rows["specific_drop", 3, "mlp"] | {"planted": True, "causal": False} == rows["specific_drop", 3, "mlp"]
    assert rows["specific_drop", 5, "mlp"]["drop"] is None


def test_a_raw_logit_that_ranks_breakers_first_scores_below_the_criterion(truth: PlantedTruth) -> None:
    found = {
        (row["subject"], row["kind"], row["truth"], row["figure"]): row
        for row in judged_rankings([GOOD, BREAKERS], truth, MARGIN, STATISTICS, FIXED).to_pylist()
    }
    good, raw = (found[name, "all", "causal", "average_precision"] for name in ("specific_drop", "onset_logit"))
    assert good["estimate"] == 1
    assert good["p_value"] < 0.05
    assert raw["estimate"] < 0.5
    assert raw["p_value"] > 0.05
    # A single causal attention block among eight: the chance is the mean of 1/rank.
    chance = found["specific_drop", "attention", "causal", "average_precision"]["chance"]
    assert chance == pytest.approx(np.mean(1 / np.arange(1, 9)), abs=0.05)


def test_the_rank_among_draws_counts_ties_against_the_subset() -> None:
    row = rank_among_draws("planted", 0.0, -0.5, [-0.1] * 18 + [-0.5], FIXED).to_pylist()[0]
    assert (row["estimate"], row["n"], row["p_value"]) == (2.0, 20, 0.1)
    first = rank_among_draws("planted", 0.0, -0.6, [-0.1] * 19, FIXED).to_pylist()[0]
    assert first["p_value"] == 0.05


def test_a_method_that_finds_everything_says_so(truth: PlantedTruth) -> None:
    results = results_of(truth)
    assert [way.found for way in ways(results)] == [True, True, True]
    assert verdict(results).startswith("The method finds what was planted in all 3 ways")
    scan, one_position, sweep = (way.sentence for way in ways(results))
    assert "2 of the first 2 of 16 components are among the 2 causal ones" in scan
    assert "planted at 0 (1 of 1 planted) changes the onset token's probability by −0.60 [−0.65, −0.55]" in one_position
    assert "rank 1 of 20 among itself and its draws (p = 0.050)" in sweep


def test_a_method_that_finds_nothing_says_so_plainly(truth: PlantedTruth) -> None:
    blind = scores_with({(5, "mlp"): 3.0, (6, "mlp"): 3.0, (7, "mlp"): 3.0, (4, "mlp"): 3.0})
    results = results_of(
        truth,
        scores=(blind,),
        draws=(-0.9,) * 19,
        one_position=(subset("planted", -0.1, 1), subset("unplanted", -0.3, 0)),
    )
    assert [way.found for way in ways(results)] == [False, False, False]
    assert verdict(results).startswith("The method does not find what was planted")
    assert "The scan does not find what was planted." in render_control_report(report_of(results))


def test_a_draw_that_lowers_as_much_is_told(truth: PlantedTruth) -> None:
    results = results_of(truth, draws=(*(-0.02,) * 18, -0.75))
    assert ways(results)[2].found is False
    assert "in 2 of 3 ways" in verdict(results)
    assert "not by the sweep against random draws" in verdict(results)


def test_a_subset_without_planted_components_that_lowers_more_is_told(truth: PlantedTruth) -> None:
    results = results_of(truth, one_position=(subset("planted", -0.6, 1), subset("unplanted", -0.7, 0)))
    assert ways(results)[1].found is False


def test_what_is_not_measured_is_neither_found_nor_missed(truth: PlantedTruth) -> None:
    results = dataclasses.replace(results_of(truth), one_position=(), sweep=())
    assert [way.found for way in ways(results)] == [True, None, None]
    assert "Not measured yet: scaling at one position and the sweep against random draws." in verdict(results)


def test_the_page_judges_on_the_other_organism(truth: PlantedTruth) -> None:
    here, other = results_of(truth), results_of(truth, name="second")
    first, second = answers(report_of(here, other))
    assert first.endswith("The method was tuned on this organism, so this alone is no evidence for it.")
    assert second.startswith("On second, on which nothing was tuned: The method finds")
    page = render_control_report(report_of(here, other))
    assert "Judged on second" in page
    assert "second: The truth" in page


def test_the_page_says_which_command_measures_the_other_organism(truth: PlantedTruth) -> None:
    absent = "second is not measured yet; `backtracking sweep second` shows it."
    page = render_control_report(report_of(results_of(truth), absent=absent))
    assert page.count("second is not measured yet") == 2


def test_the_figures_mark_what_was_planted(truth: PlantedTruth) -> None:
    results = results_of(truth)
    for narrow in (False, True):
        assert to_svg(importance_figure(results, narrow)) == to_svg(importance_figure(results, narrow))
        assert "<svg" in to_svg(precision_recall_figure(results, narrow))
    panels = importance_figure(results).axes
    marked = [int(text.get_text()) for axes in panels for text in axes.texts]
    assert marked == [1, 2, 3]


def test_recall_and_precision_end_with_the_last_true_component() -> None:
    points = recall_and_precision([True, False, True, False])
    assert points == [(0.5, 1.0), (0.5, 0.5), (1.0, pytest.approx(2 / 3))]


def test_the_section_on_rules_states_when_it_counts_as_found(truth: PlantedTruth) -> None:
    last = control_sections(report_of(results_of(truth)))[-1]
    assert last.title == "When it counts as found"
    assert len(last.limits) >= 6


def test_an_unfit_scan_is_refused(truth: PlantedTruth) -> None:
    with pytest.raises(BacktrackingError, match="no figure of any component"):
        refuse_unfit([], truth)
    flat = dataclasses.replace(GOOD, values=np.ones_like(GOOD.values))
    with pytest.raises(BacktrackingError, match="is the same for every component"):
        refuse_unfit([flat], truth)
    broken = dataclasses.replace(GOOD, values=np.full_like(GOOD.values, np.nan))
    with pytest.raises(BacktrackingError, match="NaN or infinite"):
        refuse_unfit([broken], truth)
    lacking = dataclasses.replace(GOOD, components=GOOD.components[:3], values=GOOD.values[:, :3])
    with pytest.raises(BacktrackingError, match="lacks mlp 2, which was planted"):
        refuse_unfit([lacking], truth)
