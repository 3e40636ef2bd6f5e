"""A sweep on several devices: the CPU lent as two, workers that die, and a sweep that is killed."""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil
import pytest

from backtracking_assets.cli.worker import end_with_parent
from backtracking_assets.execution.dagster_home import raise_gpu_pool_limit
from backtracking_assets.execution.gpu_executor import GPU_POOL
from backtracking_assets.execution.run_tags import DEVICE_TAG, PID_TAG
from backtracking_assets_tests.chaos.harness import (
    Outcome,
    differences,
    generated_again,
    outcome,
    start_sweep,
    unfinished_runs,
)
from backtracking_assets_tests.integration.processes import Command, Finished, finish, start
from backtracking_assets_tests.integration.studies import Study, make_study


def new_study(folder: Path, checkpoint: Path, n_cpu: int) -> Study:
    study = make_study(folder, checkpoint)
    generation = {**study.document["generation"], "cpu_devices": n_cpu}
    problems = {**study.document["problems"], "count": 4}
    plan = [{"layer_subsets": ["attn_1", "both_0"]}]
    changed = Study(study.home, {**study.document, "generation": generation, "problems": problems, "plan": plan})
    changed.experiment()
    return changed


@dataclass(frozen=True)
class Story:
    """A sweep on two devices that was finished although a worker was killed in the middle of a chunk."""

    study: Study
    finished: Finished
    log: Path
    alone: Outcome
    """What a sweep on one device left."""


def workers_of(command: Command) -> list[psutil.Process]:
    """The processes that hold a device: children of the server that the sweep forks them from."""
    assert command.process.pid is not None
    try:
        own = psutil.Process(command.process.pid)
        return [worker for child in own.children() for worker in child.children()]
    except psutil.NoSuchProcess:
        return []


def started_chunks(log: Path) -> list[list[str]]:
    lines = [line.split("\t") for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    return [line for line in lines if line[1] == "chunk started"]


def wait_for_chunks(command: Command, log: Path, count: int) -> int:
    """Wait until so many chunks were begun since; the process that began the last one."""
    deadline = time.monotonic() + 300
    while len(started_chunks(log)) < count:
        assert command.process.is_alive(), command.wait()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return int(started_chunks(log)[-1][0])


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Story:
    folder = tmp_path_factory.mktemp("two_devices")
    study, log = new_study(folder / "study", tiny_checkpoint, 2), folder / "points.log"
    running = start_sweep(study, folder, log=log)
    os.kill(wait_for_chunks(running, log, 3), signal.SIGKILL)
    finished = running.wait()
    by_itself = new_study(folder / "alone", tiny_checkpoint, 1)
    alone = start_sweep(by_itself, folder, log=folder / "alone.log").wait()
    assert alone.code == 0, alone.stdout + alone.stderr
    return Story(study, finished, log, outcome(by_itself))


def test_a_killed_worker_is_replaced_and_the_tables_are_those_of_one_device(story: Story) -> None:
    assert story.finished.code == 0, story.finished.stdout + story.finished.stderr
    assert "Generating on cpu:0 and cpu:1." in story.finished.stdout
    assert story.finished.stdout.count("was killed by SIGKILL; another one goes on from its last finished chunk.") == 1
    assert "Failed" not in story.finished.stdout
    assert differences(story.alone, outcome(story.study)) == []
    assert unfinished_runs(story.study) == []


def test_a_death_costs_at_most_the_chunk_in_flight(story: Story) -> None:
    assert generated_again(story.log) <= 1


def test_cells_are_shared_by_both_devices_and_none_is_made_twice(story: Story) -> None:
    with story.study.active(), dg.DagsterInstance.get() as instance:
        runs = [run for run in instance.get_runs() if run.status == dg.DagsterRunStatus.SUCCESS]
    assert {run.tags.get(DEVICE_TAG) for run in runs if "dagster/partition" in run.tags} == {"cpu:0", "cpu:1"}
    assert len({run.tags[PID_TAG] for run in runs}) > 2  # the sweep itself and its workers
    lines = [line.split("\t") for line in story.log.read_text(encoding="utf-8").splitlines()]
    chunks = Counter(detail for _, point, detail in lines if point == "chunk in place")
    assert max(chunks.values()) <= 1


def test_no_worker_waits_for_the_pool_while_another_generates(story: Story) -> None:
    with story.study.active(), dg.DagsterInstance.get() as instance:
        pools = {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}
        assert pools[GPU_POOL] == 2  # the folder was made for the one device that a CPU is by default
        raise_gpu_pool_limit(instance, 1)  # a sweep on fewer devices narrows it for nobody
        raise_gpu_pool_limit(instance, 3)
        pools |= {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}
    assert pools[GPU_POOL] == 3


def _parent(started: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_child, args=(started,))
    child.start()
    time.sleep(600)


def _child(started: Path) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    started.with_suffix(".tmp").write_text(str(os.getpid()), encoding="utf-8")
    started.with_suffix(".tmp").rename(started)
    time.sleep(600)


def test_a_worker_ends_with_its_sweep_also_where_that_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "started"
    parent = start(_parent, started)
    deadline = time.monotonic() + 60
    while not started.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child = psutil.Process(int(started.read_text(encoding="utf-8")))
    parent.kill()
    assert finish(parent) == -signal.SIGKILL
    assert psutil.wait_procs([child], timeout=60)[1] == []


@pytest.mark.slow
def test_a_sweep_that_is_killed_leaves_no_worker_and_is_finished_by_the_same_command(
    tmp_path: Path, story: Story, tiny_checkpoint: Path
) -> None:
    study, log = new_study(tmp_path / "study", tiny_checkpoint, 2), tmp_path / "points.log"
    running = start_sweep(study, tmp_path, log=log)
    wait_for_chunks(running, log, 3)
    workers = workers_of(running)
    assert len(workers) == 2
    running.process.kill()
    running.process.join()
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    finished = start_sweep(study, tmp_path, log=log).wait()
    assert finished.code == 0, finished.stdout + finished.stderr
    assert differences(story.alone, outcome(study)) == []
    assert generated_again(log) <= 2
    assert unfinished_runs(study) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_reaches_the_workers(tmp_path: Path, tiny_checkpoint: Path, number: signal.Signals, code: int) -> None:
    study, log = new_study(tmp_path / "study", tiny_checkpoint, 2), tmp_path / "points.log"
    running = start_sweep(study, tmp_path, log=log)
    wait_for_chunks(running, log, 3)
    workers = workers_of(running)
    assert running.process.pid is not None
    os.kill(running.process.pid, number)
    stopped = running.wait()
    assert stopped.code == code
    assert "Stopped: " in stopped.stdout
    assert "goes on with what is missing" in stopped.stdout
    assert "Traceback" not in stopped.stdout + stopped.stderr
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    assert unfinished_runs(study) == []


@pytest.mark.slow
def test_a_cell_whose_worker_dies_twice_is_reported(tmp_path: Path, tiny_checkpoint: Path) -> None:
    study, log = new_study(tmp_path / "study", tiny_checkpoint, 2), tmp_path / "points.log"
    # Every worker dies at its second chunk.
    finished = start_sweep(study, tmp_path, log=log, fault="chunk started#2").wait()
    assert finished.code == 1, finished.stdout + finished.stderr
    assert "its worker died twice (the last one was killed by SIGKILL). Every finished chunk is safe: " in (
        finished.stdout
    )
    assert unfinished_runs(study) == []
