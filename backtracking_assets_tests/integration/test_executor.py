"""Devices are leased, one process each; runs that Dagster executes lease one and say which process carries them."""

import contextlib
import fcntl
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import psutil
import pytest
import torch

from backtracking_assets.assets.sources import record_sources
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.definitions import build_definitions
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.execution.cpu_devices import CPU_DEVICES
from backtracking_assets.execution.devices import (
    device_locks_dir,
    device_name,
    devices_for,
    devices_of,
    leased_device,
    torch_device,
)
from backtracking_assets.execution.run_tags import DEVICE_TAG, HOST_TAG, PID_TAG, STARTED_TAG, process_tags
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.partitions import LAYER_SUBSET, SCALE, cell_key
from backtracking_assets.records import Cell
from backtracking_assets_tests.integration.processes import finish, start
from backtracking_assets_tests.integration.studies import QUIET, Study, make_study

CELL = Cell("attn_1", 1.0)
_FILE_VARIABLE = "TINY_EXPERIMENT"


def _wait_for(path: Path, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def _hold(devices: tuple[str, ...], locks: Path, held: Path, release: Path) -> None:
    with leased_device(devices, locks) as device:
        held.with_suffix(".tmp").write_text(device, encoding="utf-8")
        held.with_suffix(".tmp").rename(held)
        _wait_for(release)


def test_two_processes_never_hold_one_device(tmp_path: Path) -> None:
    devices, locks, release = ("cuda:0", "cuda:1"), tmp_path / "locks", tmp_path / "release"
    held = [tmp_path / f"{name}.held" for name in ("one", "two")]
    holders = [start(_hold, devices, locks, path, release) for path in held]
    for path in held:
        _wait_for(path)
    assert {path.read_text(encoding="utf-8") for path in held} == set(devices)
    waited: list[float] = []
    with (
        pytest.raises(BacktrackingError, match=r"No device came free within 1 s \(cuda:0, cuda:1 taken by other"),
        leased_device(devices, locks, on_wait=waited.append, timeout=1),
    ):
        pass
    assert len(waited) == 1  # told at once, then about every 10 s
    release.touch()
    assert [finish(holder) for holder in holders] == [0, 0]
    with leased_device(devices, locks, timeout=0) as device:
        assert device == "cuda:0"


def test_a_killed_holder_frees_its_device_at_once(tmp_path: Path) -> None:
    locks, held = tmp_path / "locks", tmp_path / "held"
    holder = start(_hold, ("cpu",), locks, held, tmp_path / "never")
    _wait_for(held)
    with pytest.raises(BacktrackingError), leased_device(("cpu",), locks, timeout=0):
        pass
    holder.kill()
    assert finish(holder) == -signal.SIGKILL
    with leased_device(("cpu",), locks, timeout=0) as device:
        assert device == "cpu"


def _fight(devices: tuple[str, ...], locks: Path, seed: int, log: Path) -> None:
    """Take one device after the other, each with a second lock of another kind that must be free then."""
    moments = random.Random(seed)
    while True:
        with leased_device(devices, locks) as device, (locks / f"{device}.inside").open("w") as inside:
            try:
                fcntl.lockf(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
                line = f"held {device}\n"
            except OSError:
                line = f"two holders of {device}\n"
            with log.open("a") as file:
                file.write(line)
            time.sleep(moments.uniform(0, 0.01))
            fcntl.lockf(inside, fcntl.LOCK_UN)


def test_processes_that_fight_for_devices_and_are_killed_never_share_one(tmp_path: Path) -> None:
    devices, locks, log = ("cpu:0", "cpu:1", "cpu:2"), tmp_path / "locks", tmp_path / "log"
    moments, started = random.Random(1), 0
    fighters = []
    log.touch()
    for _ in range(5):
        fighters.append(start(_fight, devices, locks, started, log))
        started += 1
    for kill in range(12):
        before = log.read_text().count("held")
        deadline = time.monotonic() + 120
        while log.read_text().count("held") < before + 5:
            assert time.monotonic() < deadline, f"nothing is leased any more after {kill} kills"
            time.sleep(moments.uniform(0, 0.02))
        victim = fighters.pop(moments.randrange(len(fighters)))
        victim.kill()
        assert finish(victim) == -signal.SIGKILL
        fighters.append(start(_fight, devices, locks, started, log))
        started += 1
    for fighter in fighters:
        fighter.kill()
        assert finish(fighter) == -signal.SIGKILL
    lines = log.read_text().splitlines()
    assert {line for line in lines if line} == {f"held {device}" for device in devices}
    # Whatever the dead have held is free, at once and without waiting.
    with contextlib.ExitStack() as all_of_them:
        for device in devices:
            assert all_of_them.enter_context(leased_device((device,), locks, timeout=0)) == device


def test_the_cpu_as_a_whole_is_its_first_part(tmp_path: Path) -> None:
    held, release = tmp_path / "held", tmp_path / "release"
    holder = start(_hold, ("cpu",), tmp_path, held, release)
    _wait_for(held)
    with leased_device(("cpu:0", "cpu:1"), tmp_path, timeout=0) as device:
        assert device == "cpu:1"
        with pytest.raises(BacktrackingError), leased_device(("cpu",), tmp_path, timeout=0):
            pass
    release.touch()
    assert finish(holder) == 0


def test_the_cpu_is_lent_as_several_devices(tiny_experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    def devices(threads: int, cpu_devices: int | str) -> tuple[str, ...]:
        generation = tiny_experiment.generation.model_copy(update={"threads": threads, "cpu_devices": cpu_devices})
        return devices_of(tiny_experiment.model_copy(update={"generation": generation}))

    monkeypatch.delenv(CPU_DEVICES, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**40))
    assert devices(1, 1) == ("cpu",)
    assert devices(1, 2) == ("cpu:0", "cpu:1")
    assert len(devices(1, "auto")) == 6
    assert len(devices(4, "auto")) == 1
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=5 * 2**30))
    assert len(devices(1, "auto")) == 2
    monkeypatch.setenv(CPU_DEVICES, "3")
    assert devices(4, 1) == ("cpu:0", "cpu:1", "cpu:2")
    assert [torch_device(device) for device in ("cpu", "cpu:2", "cuda:1")] == ["cpu", "cpu", "cuda:1"]
    assert device_name("cpu:2") == device_name("cpu")
    for value in ("0", "two", "-1", "²"):
        monkeypatch.setenv(CPU_DEVICES, value)
        with pytest.raises(BacktrackingError, match=f"{CPU_DEVICES} is '{value}' and must be a number of devices"):
            devices(1, 1)


def test_a_lease_inside_a_lease_of_the_same_process_is_the_same_device(tmp_path: Path) -> None:
    with leased_device(("cuda:1",), tmp_path, timeout=0) as outer:
        with leased_device(("cuda:0", "cuda:1"), tmp_path, timeout=0) as inner:
            assert inner == outer == "cuda:1"
        # The inner block gave nothing back that the outer one still holds.
        held, release = tmp_path / "held", tmp_path / "release"
        other = start(_hold, ("cuda:1",), tmp_path, held, release)
        time.sleep(0.5)
        assert not held.exists()
    _wait_for(held)
    release.touch()
    assert finish(other) == 0


def test_a_failure_inside_a_lease_gives_the_device_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), leased_device(("cpu",), tmp_path, timeout=0):
        raise ZeroDivisionError
    held, release = tmp_path / "held", tmp_path / "release"
    release.touch()
    assert finish(start(_hold, ("cpu",), tmp_path, held, release)) == 0


def test_devices_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices_for("auto") == devices_for("cpu") == ("cpu",)
    for wanted in ("cuda", "cuda:1"):
        with pytest.raises(BacktrackingError, match=f"asks for device {wanted} and torch sees no CUDA device; set "):
            devices_for(wanted)


def test_devices_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_for("auto") == devices_for("cuda") == ("cuda:0", "cuda:1")
    assert devices_for("cuda:1") == ("cuda:1",)
    assert devices_for("cpu") == ("cpu",)
    with pytest.raises(BacktrackingError, match="asks for device cuda:2 and torch sees cuda:0, cuda:1"):
        devices_for("cuda:2")


def cells_job() -> dg.JobDefinition:
    return _job("phase2_cells")


def report_job() -> dg.JobDefinition:
    return _job("make_report_phase2")


def _job(name: str) -> dg.JobDefinition:
    return build_definitions(load_experiment(os.environ[_FILE_VARIABLE])).resolve_job_def(name)


def _execute(instance: dg.DagsterInstance, job, cell: Cell | None = None) -> dg.DagsterRun:
    """Execute a job by its own executor, as a run of the UI or of a backfill is executed."""
    tags = {} if cell is None else {f"dagster/partition/{name}": value for name, value in _dimensions(cell).items()}
    if cell is not None:
        tags["dagster/partition"] = str(cell_key(cell))
    with dg.execute_job(dg.reconstructable(job), instance=instance, tags=tags, run_config=QUIET) as result:
        assert result.success
        run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return run


def _dimensions(cell: Cell) -> dict[str, str]:
    keys = cell_key(cell).keys_by_dimension
    return {LAYER_SUBSET: keys[LAYER_SUBSET], SCALE: keys[SCALE]}


@pytest.fixture
def study(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    made = make_study(tmp_path / "study", tiny_checkpoint)
    monkeypatch.setenv(_FILE_VARIABLE, str(made.file))
    with made.active():
        yield made


def test_a_run_that_generates_says_which_process_carries_it_on_which_device(study: Study) -> None:
    with open_instance() as instance:
        record_sources(instance, study.opened())
        run = _execute(instance, cells_job, CELL)
    assert run.tags[HOST_TAG] == socket.gethostname()
    assert run.tags[PID_TAG] == str(os.getpid())
    assert run.tags[STARTED_TAG] == process_tags(run.run_id)[STARTED_TAG]
    assert run.tags[DEVICE_TAG] == "cpu"
    # Given back: a second lease of another process would not wait.
    held, release = study.home / "held", study.home / "release"
    release.touch()
    assert finish(start(_hold, ("cpu",), device_locks_dir(), held, release)) == 0


def test_a_run_waits_for_a_device_that_another_process_holds(study: Study) -> None:
    held, release = study.home / "held", study.home / "release"
    study.layout.prepare()
    holder = start(_hold, ("cpu",), device_locks_dir(), held, release)
    _wait_for(held)
    with open_instance() as instance:
        # A run without generation steps takes no lease, so it does not wait.
        report = _execute(instance, report_job)
        assert report.tags[PID_TAG] == str(os.getpid())
        assert DEVICE_TAG not in report.tags
        record_sources(instance, study.opened())
        releasing = threading.Thread(target=_release_once_waiting, args=(instance, release))
        releasing.start()
        run = _execute(instance, cells_job, CELL)
        releasing.join()
        assert run.tags[DEVICE_TAG] == "cpu"
        assert "Generating on cpu." in _messages(instance, run)
    assert finish(holder) == 0


def _release_once_waiting(instance: dg.DagsterInstance, release: Path) -> None:
    said = "Waiting for one of cpu, taken by other runs"
    deadline = time.monotonic() + 60
    try:
        while not any(said in message for run in instance.get_runs() for message in _messages(instance, run)):
            assert time.monotonic() < deadline, "no run said that it waits"
            time.sleep(0.1)
    finally:
        release.touch()


def _messages(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    return [entry.user_message for entry in instance.all_logs(run.run_id)]
