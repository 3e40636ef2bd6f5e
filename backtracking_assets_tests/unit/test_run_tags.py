"""Telling a live process from a dead one, and from another one with the same id."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import dagster as dg
import pytest

from backtracking_assets.execution.dead_runs import end_dead_runs
from backtracking_assets.execution.run_tags import (
    HOST_TAG,
    PID_TAG,
    RUN_TAG,
    STARTED_TAG,
    is_dead,
    process_start,
    process_tags,
)


@dg.op
def nothing() -> None: ...


@dg.job
def idle() -> None:
    nothing()


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def tags_of(pid: int) -> dict[str, str]:
    started = process_start(pid)
    assert started is not None
    return {**process_tags("run"), PID_TAG: str(pid), STARTED_TAG: started}


def test_this_process_lives_and_keeps_its_start():
    tags = process_tags("run", "cpu")
    assert not is_dead("run", tags)
    assert tags[STARTED_TAG] == process_tags("run")[STARTED_TAG]
    assert tags["backtracking/device"] == "cpu"


def test_a_killed_process_is_dead_even_before_its_parent_has_noticed(sleeper):
    tags = tags_of(sleeper.pid)
    assert not is_dead("run", tags)
    os.kill(sleeper.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not is_dead("run", tags) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sleeper.returncode is None, "the parent has not waited: the process is a zombie"
    assert is_dead("run", tags)


def test_another_process_with_the_same_id_is_not_taken_for_the_first(sleeper):
    assert is_dead("run", {**tags_of(sleeper.pid), STARTED_TAG: "another-boot:1"})


def test_nothing_is_known_of_other_hosts_and_of_untagged_runs():
    dead = {**process_tags("run"), PID_TAG: "4194304", STARTED_TAG: "x"}
    assert is_dead("run", dead)
    assert not is_dead("run", {**dead, HOST_TAG: "elsewhere"})
    assert not is_dead("run", {})


def test_a_retry_is_not_taken_for_the_dead_run_whose_tags_it_inherits():
    assert not is_dead("retry", {**process_tags("run"), PID_TAG: "4194304", STARTED_TAG: "x"})


def test_only_unfinished_runs_of_dead_processes_are_ended(tmp_path: Path, sleeper):
    def run_id(name: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, name))

    def make(instance: dg.DagsterInstance, name: str, status: str, tags: dict[str, str]) -> None:
        instance.create_run_for_job(idle, run_id=run_id(name), status=dg.DagsterRunStatus[status], tags=tags)

    def of_the_dead(name: str) -> dict[str, str]:
        return {**process_tags(run_id(name)), PID_TAG: "4194304", STARTED_TAG: "x"}

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for name, status in (("dead", "STARTED"), ("dead-early", "NOT_STARTED"), ("done", "SUCCESS")):
            make(instance, name, status, of_the_dead(name))
        make(instance, "live", "STARTED", {**tags_of(sleeper.pid), RUN_TAG: run_id("live")})
        make(instance, "retry", "STARTING", of_the_dead("dead"))
        make(instance, "bare", "STARTED", {})
        make(instance, "waiting", "NOT_STARTED", {})
        assert sorted(end_dead_runs(instance)) == sorted(map(run_id, ("dead", "dead-early")))
        by_id = {run.run_id: run.status.value for run in instance.get_runs()}
        assert end_dead_runs(instance) == []
    statuses = {
        "dead": "FAILURE",
        "dead-early": "FAILURE",
        "done": "SUCCESS",
        "live": "STARTED",
        "retry": "STARTING",
        "bare": "STARTED",
        "waiting": "NOT_STARTED",
    }
    assert by_id == {run_id(name): status for name, status in statuses.items()}


def test_the_slot_of_a_run_that_died_while_it_generated_is_freed(tmp_path: Path):
    """Dagster notices that the process is gone and marks the run, and leaves its slot in the pool claimed."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        log = instance.event_log_storage
        log.set_concurrency_slots("gpu", 2)
        statuses = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED)
        failed, live = (instance.create_run_for_job(idle, status=status).run_id for status in statuses)
        for run_id in (failed, live):
            assert log.claim_concurrency_slot("gpu", run_id, "generations").is_claimed
        end_dead_runs(instance)
        assert {slot.run_id for slot in log.get_concurrency_info("gpu").claimed_slots} == {live}
