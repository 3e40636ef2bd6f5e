"""Telling a live process from a dead one, and from another one with the same id."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from backtracking_assets.execution.dead_runs import end_dead_runs
from backtracking_assets.execution.run_tags import HOST_TAG, PID_TAG, STARTED_TAG, is_dead, process_start, process_tags


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def tags_of(pid: int) -> dict[str, str]:
    started = process_start(pid)
    assert started is not None
    return {**process_tags(), PID_TAG: str(pid), STARTED_TAG: started}


def test_this_process_lives_and_keeps_its_start():
    tags = process_tags("cpu")
    assert not is_dead(tags)
    assert tags[STARTED_TAG] == process_tags()[STARTED_TAG]
    assert tags["backtracking/device"] == "cpu"


def test_a_killed_process_is_dead_even_before_its_parent_has_noticed(sleeper):
    tags = tags_of(sleeper.pid)
    assert not is_dead(tags)
    os.kill(sleeper.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not is_dead(tags) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sleeper.returncode is None, "the parent has not waited: the process is a zombie"
    assert is_dead(tags)


def test_another_process_with_the_same_id_is_not_taken_for_the_first(sleeper):
    assert is_dead({**tags_of(sleeper.pid), STARTED_TAG: "another-boot:1"})


def test_nothing_is_known_of_other_hosts_and_of_untagged_runs():
    dead = {**process_tags(), PID_TAG: "4194304", STARTED_TAG: "x"}
    assert is_dead(dead)
    assert not is_dead({**dead, HOST_TAG: "elsewhere"})
    assert not is_dead({})


def test_only_unfinished_runs_of_dead_processes_are_ended(tmp_path: Path, sleeper):
    home = tmp_path / "instance"
    home.mkdir()
    dead = {**process_tags(), PID_TAG: "4194304", STARTED_TAG: "x"}

    @dg.op
    def nothing() -> None: ...

    @dg.job
    def idle() -> None:
        nothing()

    with dg.DagsterInstance.local_temp(str(home)) as instance:
        made = {
            "dead": instance.create_run_for_job(idle, status=dg.DagsterRunStatus.STARTED, tags=dead),
            "live": instance.create_run_for_job(idle, status=dg.DagsterRunStatus.STARTED, tags=tags_of(sleeper.pid)),
            "done": instance.create_run_for_job(idle, status=dg.DagsterRunStatus.SUCCESS, tags=dead),
            "waiting": instance.create_run_for_job(idle, status=dg.DagsterRunStatus.NOT_STARTED, tags=dead),
            "bare": instance.create_run_for_job(idle, status=dg.DagsterRunStatus.STARTED),
        }
        assert end_dead_runs(instance) == [made["dead"].run_id]
        by_id = {run.run_id: run.status.value for run in instance.get_runs()}
        statuses = {name: by_id[run.run_id] for name, run in made.items()}
        assert end_dead_runs(instance) == []
    assert statuses == {
        "dead": "FAILURE",
        "live": "STARTED",
        "done": "SUCCESS",
        "waiting": "NOT_STARTED",
        "bare": "STARTED",
    }
