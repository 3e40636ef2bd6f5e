"""Whatever kills a sweep, the same command finishes it, and the result is that of an uninterrupted one."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from backtracking_assets.assets.status import planned_status
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
from backtracking_assets_tests.integration.studies import Study, make_study

# Two conditions of two chunks each, kept after every step; a cell that is linked to another one's completions.
CHANGES: dict[str, Any] = {
    "problems": {"count": 4},
    "generation": {"save_seconds": 0},
    "plan": [{"layer_subsets": ["attn_1"]}, {"layer_subsets": ["both_0"], "scales": [1.0]}],
}
BEGINS_A_CHUNK_AGAIN = ("chunk started", "progress written", "progress in place", "chunk generated", "chunk written")
LATER = (
    "transaction open#3",
    "transaction open#9",
    "transaction committed#5",
    "chunk in place#2",
    "page in place#3",
    "progress in place#9",
)


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


@pytest.mark.parametrize("faults", [POINTS[:11], POINTS[11:]], ids=["until the database", "from there on"])
def test_a_sweep_killed_at_one_named_point_after_the_other_is_finished_by_the_same_command(
    faults: tuple[str, ...], tmp_path: Path, tiny_checkpoint: Path, undisturbed: Undisturbed
) -> None:
    """Each run dies where the one before has not come to; what is left at the end is as if none had died."""
    study, log = new_study(tmp_path / "study", tiny_checkpoint), tmp_path / "points.log"
    for fault in faults:
        assert start_sweep(study, tmp_path, log=log, fault=fault).wait().code == KILLED, fault
    check_finished(study, tmp_path, log, undisturbed)
    assert generated_again(log) == sum(fault in BEGINS_A_CHUNK_AGAIN for fault in faults)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*POINTS, *LATER])
def test_a_sweep_killed_at_a_named_point_is_finished_by_the_same_command(
    fault: str, tmp_path: Path, tiny_checkpoint: Path, undisturbed: Undisturbed
) -> None:
    study, log = new_study(tmp_path / "study", tiny_checkpoint), tmp_path / "points.log"
    assert start_sweep(study, tmp_path, log=log, fault=fault).wait().code == KILLED
    check_finished(study, tmp_path, log, undisturbed)
    assert generated_again(log) == (fault.partition("#")[0] in BEGINS_A_CHUNK_AGAIN)


def test_a_sweep_killed_in_the_middle_of_a_chunk_repeats_none_of_its_steps(
    tmp_path: Path, tiny_checkpoint: Path, undisturbed: Undisturbed
) -> None:
    study, log = new_study(tmp_path / "study", tiny_checkpoint), tmp_path / "points.log"
    assert start_sweep(study, tmp_path, log=log, fault="progress in place#6").wait().code == KILLED
    with study.active():
        reasons = [status.reason for status in planned_status(study.opened())]
    assert any(re.search(r"a chunk is begun, and its state at decode step \d", reason) for reason in reasons)
    check_finished(study, tmp_path, log, undisturbed)
    # The step that was kept last is kept once more as the chunk goes on from it; each other one is made once.
    assert kept(log) == kept(undisturbed.log) + 1
    assert generated_again(log) == 1


def kept(log: Path) -> int:
    """How often the state of a chunk was kept, which is after every step here."""
    return log.read_text(encoding="utf-8").count("\tprogress in place\t")


def check_finished(study: Study, folder: Path, log: Path, undisturbed: Undisturbed) -> None:
    """One more sweep ends well and leaves what an uninterrupted one leaves."""
    finished = start_sweep(study, folder, log=log).wait()
    assert finished.code == 0, finished.stdout + finished.stderr
    assert "Failed" not in finished.stdout
    assert differences(undisturbed.outcome, outcome(study)) == []
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


def test_the_harness_sees_a_changed_value_a_lost_row_and_a_chunk_begun_twice(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    tables = undisturbed.outcome.tables
    changed = tables["completions"].set_column(
        tables["completions"].column_names.index("text"), "text", [["x"] * tables["completions"].num_rows]
    )
    for name, table in (("completions", changed), ("checks", tables["checks"].slice(1))):
        other = replace(undisturbed.outcome, tables={**tables, name: table})
        assert differences(undisturbed.outcome, other) == [name]
    log = tmp_path / "points.log"
    log.write_text("1\tchunk started\ta\n2\tchunk started\ta\n2\tchunk started\tb\n", encoding="utf-8")
    assert generated_again(log) == 1
