"""Whatever kills a sweep, the same command finishes it, and the result is that of an uninterrupted one."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backtracking_assets.fault_points import POINTS
from backtracking_assets_tests.chaos.harness import (
    KILLED,
    Outcome,
    differences,
    generated_again,
    outcome,
    seconds_of,
    start_sweep,
    sweep_under_fire,
    unfinished_runs,
)
from backtracking_assets_tests.integration.processes import backtracking
from backtracking_assets_tests.integration.studies import Study, make_study

# Two conditions of two chunks each; a cell that is linked to another one's completions.
CHANGES: dict[str, Any] = {
    "problems": {"count": 4},
    "plan": [{"layer_subsets": ["attn_1"]}, {"layer_subsets": ["both_0"], "scales": [1.0]}],
}
LATER = ("transaction open#3", "transaction open#9", "transaction committed#5", "chunk in place#2", "page in place#3")


@dataclass(frozen=True)
class Undisturbed:
    """A sweep that nothing interrupted."""

    outcome: Outcome
    seconds: float
    log: Path


def new_study(folder: Path, checkpoint: Path) -> Study:
    study = make_study(folder, checkpoint)
    document = {**study.document}
    for section, change in CHANGES.items():
        document[section] = {**document[section], **change} if isinstance(change, dict) else change
    changed = Study(study.home, document)
    changed.experiment()
    return changed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    study = new_study(folder / "study", tiny_checkpoint)
    seconds = seconds_of(study, folder)
    return Undisturbed(outcome(study), seconds, folder / "points.log")


def test_an_uninterrupted_sweep_reaches_every_point_and_leaves_nothing_over(undisturbed: Undisturbed) -> None:
    reached = {line.split("\t")[1] for line in undisturbed.log.read_text(encoding="utf-8").splitlines()}
    assert reached == set(POINTS)
    assert generated_again(undisturbed.log) == 0
    assert undisturbed.outcome.leftovers == ()
    assert undisturbed.outcome.tables["completions"].num_rows == 16
    assert undisturbed.outcome.current_pages == {"attn_1 at 0", "attn_1 at 1", "both_0 at 1", "the sweep"}


@pytest.mark.parametrize("fault", [*POINTS, *LATER])
def test_a_sweep_killed_at_a_named_point_is_finished_by_the_same_command(
    fault: str, tmp_path: Path, tiny_checkpoint: Path, undisturbed: Undisturbed
) -> None:
    study, log = new_study(tmp_path / "study", tiny_checkpoint), tmp_path / "points.log"
    assert start_sweep(study, tmp_path, log=log, fault=fault).wait().code == KILLED
    finished = start_sweep(study, tmp_path, log=log).wait()
    assert finished.code == 0, finished.stdout + finished.stderr
    assert "Failed" not in finished.stdout
    assert differences(undisturbed.outcome, outcome(study)) == []
    assert generated_again(log) == (1 if fault in ("chunk started", "chunk generated", "chunk written") else 0)
    assert unfinished_runs(study) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_sweep_killed_at_random_moments_is_finished_by_the_same_command(
    seed: int, tmp_path: Path, tiny_checkpoint: Path, undisturbed: Undisturbed
) -> None:
    study = new_study(tmp_path / "study", tiny_checkpoint)
    kills = sweep_under_fire(study, tmp_path, kills=3, seed=seed, longest=undisturbed.seconds * 0.8)
    assert kills.again <= kills.killed
    assert differences(undisturbed.outcome, outcome(study)) == []
    assert unfinished_runs(study) == []


def test_a_kill_is_told_from_what_it_cost(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The harness itself: it sees a changed value and a chunk that was begun twice."""
    one, other = new_study(tmp_path / "one", tiny_checkpoint), new_study(tmp_path / "other", tiny_checkpoint)
    other.experiment(sampling={"seed": 8})
    found = []
    for study in (one, other):
        done = backtracking("sweep", str(study.file), environment=study.environment, folder=tmp_path)
        assert done.code == 0, done.stdout
        found.append(outcome(study))
    assert "completions" in differences(*found)
    assert any(re.match("archive", name) for name in differences(*found))
    log = tmp_path / "points.log"
    log.write_text("1\tchunk started\ta\n2\tchunk started\ta\n2\tchunk started\tb\n", encoding="utf-8")
    assert generated_again(log) == 1
