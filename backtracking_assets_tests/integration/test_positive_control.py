"""The positive control of the second organism, on few problems: from phase 1's completions to the page."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from backtracking_assets.assets.jobs import CELLS_JOB, VARIANTS_JOB
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.positive_control_inputs import (
    control_page_path,
    known_truth,
    positive_control_is_done,
    settings_of,
    stored_control,
)
from backtracking_assets.assets.whole_study import POSITIVE_CONTROL_JOB, SCAN_JOB
from backtracking_assets.definitions import build_definitions
from backtracking_assets.errors import ExperimentError
from backtracking_assets.experiment import PROJECT_ROOT, Experiment
from backtracking_assets.experiment_file import EXPERIMENTS_DIR
from backtracking_assets.partitions import cell_key
from backtracking_assets.records import Cell
from backtracking_assets_tests.integration.studies import QUIET, Study

ORGANISM = PROJECT_ROOT / "data" / "organism_2"
SUBSET = "planted_attention"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The second organism's experiment with few problems, events and resamples, and one draw."""
    home = tmp_path_factory.mktemp("planted")
    document: dict[str, Any] = yaml.safe_load((EXPERIMENTS_DIR / "organism_2.yaml").read_text(encoding="utf-8"))
    document |= {"name": "planted", "plan": [{"layer_subsets": [SUBSET, "random"], "scales": [0.0, 1.0]}]}
    document["model"] |= {"path": str(ORGANISM)}
    document["problems"] |= {
        "path": str(PROJECT_ROOT / "data" / "problems" / "organism_2.jsonl"),
        "count": 6,
        "samples": 2,
    }
    document["phase1"] |= {"count": 14, "samples": 2}
    document["scan"] |= {"events": 6}
    document["statistics"] |= {"resamples": 200}
    document["controls"]["random"][0]["draws"] = 1
    document["positive_control"] = {"known_truth": str(ORGANISM / "known_truth.json"), "tuned_here": False}
    del document["continuation"]
    return Study(home, document)


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def experiment(study: Study) -> Iterator[Experiment]:
    with study.active():
        yield study.experiment()


def run(instance: dg.DagsterInstance, experiment: Experiment, job: str, key: Any = None) -> dg.ExecuteInProcessResult:
    definition = build_definitions(experiment).resolve_job_def(job)
    return definition.execute_in_process(instance=instance, partition_key=key, run_config=QUIET, raise_on_error=False)


def failure(result: dg.ExecuteInProcessResult) -> str:
    data = next(event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert data.user_failure_data is not None
    return data.user_failure_data.description or ""


@pytest.fixture
def scanned(instance: dg.DagsterInstance, experiment: Experiment) -> Experiment:
    """The experiment with its scan, and nothing of its sweep."""
    assert run(instance, experiment, VARIANTS_JOB, "think_newline").success
    assert run(instance, experiment, SCAN_JOB).success
    assert run(instance, experiment, "phase1_selected_components").success
    return experiment


def test_without_a_scan_the_run_says_what_to_do(instance: dg.DagsterInstance, experiment: Experiment) -> None:
    result = run(instance, experiment, POSITIVE_CONTROL_JOB)
    assert not result.success
    assert "materialize component_importance first" in failure(result)
    assert not positive_control_is_done(OpenExperiment(experiment))


def test_the_scan_finds_what_was_planted(instance: dg.DagsterInstance, scanned: Experiment) -> None:
    result = run(instance, scanned, POSITIVE_CONTROL_JOB)
    assert result.success
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {
        "scan_finds_planted": True,
        "one_position_finds_planted": False,
        "sweep_finds_planted": False,
    }
    opened = OpenExperiment(scanned)
    assert positive_control_is_done(opened)
    page = control_page_path(opened).read_text(encoding="utf-8")
    assert "6 of the 8 planted components are causal, not mlp 18 and mlp 20" in page
    assert "Not measured yet: scaling at one position and the sweep against random draws." in page
    first = stored_control(opened)
    assert first is not None
    assert first.components.filter(first.components["planted"]).num_rows == 8 * 14  # seven criteria, two modes


@pytest.mark.slow
def test_the_sweep_joins_later(instance: dg.DagsterInstance, scanned: Experiment) -> None:
    assert run(instance, scanned, POSITIVE_CONTROL_JOB).success
    for cell in (Cell(SUBSET, 1.0), Cell(SUBSET, 0.0), Cell(f"random_1_of_{SUBSET}", 0.0)):
        assert run(instance, scanned, CELLS_JOB, cell_key(cell)).success
    assert run(instance, scanned, "phase2_subset_sweep").success
    opened = OpenExperiment(scanned)
    assert not positive_control_is_done(opened)
    assert stored_control(opened) is None
    assert run(instance, scanned, POSITIVE_CONTROL_JOB).success
    opened = OpenExperiment(scanned)
    assert positive_control_is_done(opened)
    again = stored_control(opened)
    assert again is not None
    ranks = [row for row in again.figures.to_pylist() if row["figure"] == "rank_among_draws"]
    assert [(row["subject"], row["estimate"], row["n"]) for row in ranks] == [(SUBSET, 1.0, 2)]
    assert "rank 1 of 2 among itself and its draws" in control_page_path(opened).read_text(encoding="utf-8")


def test_a_truth_about_other_weights_is_refused(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "organism"
    shutil.copytree(ORGANISM, folder)
    other = str(PROJECT_ROOT / "data" / "organism" / "known_truth.json")
    with study.active():
        apart = study.opened(positive_control={"known_truth": other})
        with pytest.raises(ExperimentError, match="is not in the checkpoint's folder"):
            known_truth(apart)
        here = {"model": {"path": str(folder)}, "positive_control": {"known_truth": str(folder / "known_truth.json")}}
        assert len(known_truth(study.opened(**here)).planted) == 8
        shutil.copy(other, folder / "known_truth.json")
        with pytest.raises(ExperimentError, match="so the truth is about other weights"):
            known_truth(study.opened(**here))
        (folder / "SHA256SUMS").unlink()
        with pytest.raises(ExperimentError, match="SHA256SUMS cannot be read"):
            known_truth(study.opened(**here))


def test_the_section_needs_a_scan_and_the_job_the_section(study: Study) -> None:
    with study.active():
        document = {key: value for key, value in study.document.items() if key != "scan"}
        with pytest.raises(ExperimentError, match="holds the section scan against the truth"):
            Study(study.home, document).experiment()
        without = Study(study.home, {key: value for key, value in study.document.items() if key != "positive_control"})
        with pytest.raises(ExperimentError, match="has no section positive_control"):
            settings_of(without.experiment())
