"""What the events of an imported run give, beside what was published, on a run whose totals are known."""

from pathlib import Path
from typing import Any

import pytest

from backtracking_assets.analysis.imported_faults import Fault, baseline_accuracy, imported_faults, token_cap
from backtracking_assets.analysis.imported_figures import imported_figures
from backtracking_assets.analysis.statistics import share
from backtracking_assets.imported_records import EVENTS_FILE, RunFolder
from backtracking_assets.storage.run_folders.folder import read_run_folder
from backtracking_assets_tests.unit.run_folder_samples import (
    FIRST,
    SECOND,
    event_rows,
    write_csv,
    write_json,
    write_phase1,
    write_phase2,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return read_run_folder(write_phase1(tmp_path_factory.mktemp("runs") / "one"))


@pytest.fixture(scope="module")
def figures(run: RunFolder) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    rows = imported_figures(run, 0.95)
    keyed = {(row["file"], row["entry"], row["measure"], row["denominator"]): row for row in rows}
    assert len(keyed) == len(rows)
    return keyed


@pytest.mark.parametrize("variant", [FIRST, SECOND])
def test_rates_by_variant_and_condition_are_those_that_were_built_in(figures: dict, variant: str) -> None:
    def value(measure: str, denominator: str = "") -> float:
        return figures[EVENTS_FILE, f"{variant} / baseline", measure, denominator]["recomputed"]

    assert value("total") == 40
    assert value("backtracking_strict_rate") == 20 / 40
    assert value("backtracking_relaxed_rate") == 25 / 40
    assert value("unknown_count") == 2
    assert value("accuracy", "all") == 10 / 40
    assert value("accuracy", "answered") == 10 / 38
    assert figures[EVENTS_FILE, f"{FIRST} / targeted_ablation", "backtracking_strict_rate", ""]["recomputed"] == 1 / 40


def test_intervals_are_clustered_by_example(figures: dict) -> None:
    row = figures[EVENTS_FILE, f"{FIRST} / baseline", "accuracy", "all"]
    correct = [float(s == 0) for e in range(10) for s in range(4)]
    expected = share(correct, [1.0] * 40, [str(e) for e in range(10) for s in range(4)], confidence=0.95)
    assert (row["low"], row["high"], row["n"], row["n_examples"]) == (expected.low, expected.high, 40, 10)


@pytest.mark.parametrize(
    ("file", "entry", "measure", "denominator", "outcome"),
    [
        ("condition_comparison.csv", f"{FIRST} / baseline", "backtracking_rate", "", "equal"),
        ("condition_comparison.csv", f"{FIRST} / targeted_ablation", "backtracking_count", "", "equal"),
        ("condition_comparison.csv", f"{FIRST} / baseline", "accuracy", "answered", "equal"),
        ("condition_comparison.csv", f"{FIRST} / baseline", "accuracy", "all", "other denominator"),
        ("formatting_summary.csv", SECOND, "accuracy", "answered", "equal"),
        ("summary_metrics.json", "by_condition.baseline", "accuracy", "all", "equal"),
        ("summary_metrics.json", "by_condition.baseline", "accuracy", "answered", "other denominator"),
        ("summary_metrics.json", "all", "backtracking_strict_count", "", "equal"),
        ("summary_metrics.json", "all", "unknown_count", "", "equal"),
        ("metrics_v2.json", "baseline_only_summary", "backtracking_relaxed_count", "", "differs"),
        ("metrics_v2.json", "backtracking_vs_accuracy.with_backtracking", "correct", "", "equal"),
        ("metrics_v2.json", "backtracking_vs_accuracy", "accuracy_difference", "", "equal"),
        ("metrics_v2.json", "variant_specific.by_condition.baseline", "correct", "", "equal"),
        ("ablation_importance.csv", "attention.1", "delta_wait_logit_mean", "", "only published"),
        ("selected_layers.json", "attention.0", "rank", "", "only published"),
    ],
)
def test_each_published_figure_is_held_against_its_own_completions(
    figures: dict, file: str, entry: str, measure: str, denominator: str, outcome: str
) -> None:
    assert figures[file, entry, measure, denominator]["outcome"] == outcome


def test_the_wrong_figure_is_shown_beside_the_right_one(figures: dict) -> None:
    row = figures["metrics_v2.json", "baseline_only_summary", "backtracking_relaxed_count", ""]
    assert (row["published"], row["recomputed"]) == (99.0, 50.0)


def test_a_part_of_the_events_concludes_nothing(tmp_path: Path) -> None:
    part = read_run_folder(write_phase1(tmp_path / "part", event_rows()[:20]))
    rows = imported_figures(part, 0.95)
    own = [row for row in rows if row["entry"] == f"{FIRST} / baseline" and row["file"] != EVENTS_FILE]
    assert {row["outcome"] for row in own} == {"fewer events"}
    assert (
        "hold 20 of the 120 completions"
        in _by_name(imported_faults(part, rows, None, 0.95))["fewer_events"].description
    )


def test_without_events_everything_is_as_published(tmp_path: Path) -> None:
    (write_phase1(tmp_path / "run") / "analysis" / EVENTS_FILE).unlink()
    rows = imported_figures(read_run_folder(tmp_path / "run"), 0.95)
    assert {row["outcome"] for row in rows} == {"only published"}


def test_the_faults_of_phase_1_have_their_figures(run: RunFolder) -> None:
    faults = _by_name(imported_faults(run, imported_figures(run, 0.95), None, 0.95))
    assert set(faults) == {"at_token_cap", "no_finish_reason", "two_denominators"}
    assert token_cap(run.events or ()) == 512
    assert faults["at_token_cap"].figure == 0.75
    assert "exactly 512 tokens" in faults["at_token_cap"].description
    assert (
        "1 are over all completions, 4 over those with a known answer alone" in faults["two_denominators"].description
    )


def test_published_counts_tell_the_denominators_apart_without_events(tmp_path: Path) -> None:
    (write_phase1(tmp_path / "run") / "analysis" / EVENTS_FILE).unlink()
    run = read_run_folder(tmp_path / "run")
    faults = _by_name(imported_faults(run, imported_figures(run, 0.95), None, 0.95))
    # 20 of 80 in summary_metrics.json; 10 of 38 and 20 of 76 where 40 and 80 completions were published.
    assert (
        "1 are over all completions, 3 over those with a known answer alone" in faults["two_denominators"].description
    )


@pytest.mark.parametrize(("total", "accuracy"), [(1e300, 1e300), (1e300, 5e-324), (-1.0, 0.5), (0.0, 0.0), (0.4, 1.0)])
def test_published_figures_of_any_size_are_no_crash(tmp_path: Path, total: float, accuracy: float) -> None:
    row = {"subset_name": "baseline", "num_components": 0, "total": total, "accuracy": accuracy}
    write_csv(tmp_path / "subset_sweep_results.csv", [row])
    write_csv(tmp_path / "formatting_summary.csv", [{"variant": "a", "total": total, "accuracy": accuracy}])
    write_json(
        tmp_path / "metrics_v2.json",
        {
            "variant_specific": {"variant": "a", "by_condition": {"other": {"total": total}}},
            "formatting_effect": {"by_variant": {"a": {"total": total, "correct": total, "accuracy": accuracy}}},
        },
    )
    run = read_run_folder(tmp_path)
    reference = baseline_accuracy(run.run_id, (), run.figures, 0.95)
    imported_faults(run, imported_figures(run, 0.95), reference, 0.95)
    assert reference is None


def test_the_baseline_of_a_sweep_is_held_against_phase_1(run: RunFolder, tmp_path: Path) -> None:
    sweep = read_run_folder(write_phase2(tmp_path / "two"))
    reference = baseline_accuracy(run.run_id, run.events or (), run.figures, 0.95)
    assert reference is not None
    assert reference.estimate.estimate == 10 / 40
    faults = _by_name(imported_faults(sweep, imported_figures(sweep, 0.95), reference, 0.95))
    assert faults["sweep_baseline_accuracy"].figure == 0.0
    assert "25.0%" in faults["sweep_baseline_accuracy"].description
    assert faults["no_probability: continuation_ablation_results.csv"].figure == 9.0


def test_a_sweep_whose_baseline_agrees_has_no_fault(run: RunFolder, tmp_path: Path) -> None:
    folder = write_phase2(tmp_path / "two")
    row = {"subset_name": "baseline", "num_components": 0, "total": 48, "correct_count": 12, "accuracy": 0.25}
    write_csv(folder / "analysis" / "subset_sweep_results.csv", [row])
    sweep = read_run_folder(folder)
    reference = baseline_accuracy(run.run_id, run.events or (), run.figures, 0.95)
    faults = _by_name(imported_faults(sweep, imported_figures(sweep, 0.95), reference, 0.95))
    assert "sweep_baseline_accuracy" not in faults


@pytest.mark.parametrize(("values", "fault"), [([0.5, 0.5], True), (["", "nan"], True), ([0.5, 0.6], False)])
def test_a_probability_must_vary(tmp_path: Path, values: list[object], fault: bool) -> None:
    write_csv(tmp_path / "continuation_ablation.csv", [{"example_id": 1, "onset_prob": value} for value in values])
    run = read_run_folder(tmp_path)
    found = _by_name(imported_faults(run, imported_figures(run, 0.95), None, 0.95))
    assert ("empty_probability: continuation_ablation.csv" in found) is fault


def test_an_onset_beyond_its_text_and_a_constant_finish_reason_are_faults(tmp_path: Path) -> None:
    rows = [{**row, "finish_reason": "stop"} for row in event_rows()]
    rows[2]["onset_token_in_completion"] = 512
    run = read_run_folder(write_phase1(tmp_path / "run", rows))
    faults = _by_name(imported_faults(run, imported_figures(run, 0.95), None, 0.95))
    assert faults["onset_beyond_text"].figure == 1.0
    assert "line 4" in faults["onset_beyond_text"].description
    assert "'stop'" in faults["constant_finish_reason"].description
    assert "no_finish_reason" not in faults


def test_lengths_that_differ_show_no_cap(tmp_path: Path) -> None:
    rows = [{**row, "completion_tokens": 100 + number} for number, row in enumerate(event_rows())]
    assert token_cap(read_run_folder(write_phase1(tmp_path / "run", rows)).events or ()) is None


def _by_name(faults: list[Fault]) -> dict[str, Fault]:
    return {fault.fault: fault for fault in faults}
