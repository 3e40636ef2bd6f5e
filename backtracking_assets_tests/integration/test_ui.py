"""The UI listens on this machine only unless told otherwise, and then says that it has no login."""

import inspect
import io
import os
import socket
from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console

from backtracking_assets.cli import app, ui
from backtracking_assets.execution.cpu_devices import CPU_DEVICES
from backtracking_assets.execution.gpu_executor import GPU_POOL
from backtracking_assets.experiment import Experiment


class _BecameError(Exception):
    """Raised in place of becoming `dagster dev`."""


def _said(host: str, monkeypatch: pytest.MonkeyPatch, experiments: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """What is printed before the UI starts on a host, and the command that it becomes."""
    commands: list[list[str]] = []

    def become(program: str, command: list[str]) -> None:
        commands.append(command)
        raise _BecameError

    monkeypatch.setattr(os, "execv", become)
    monkeypatch.setattr(ui, "experiment_names", lambda: experiments)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no address {host}")
        port = probe.getsockname()[1]
    printed = io.StringIO()
    with pytest.raises(_BecameError):
        ui.run_ui(host, port, Console(file=printed, width=200))
    return printed.getvalue(), commands[0]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_listening_for_other_machines_warns_that_there_is_no_login(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said, command = _said(host, monkeypatch)
    assert f"Warning: the UI has no login, and on {host} other machines can reach it" in said
    assert command[command.index("-h") + 1] == host


def test_listening_on_this_machine_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    said, command = _said("127.0.0.1", monkeypatch)
    assert "Warning" not in said
    assert command[command.index("-h") + 1] == "127.0.0.1"


def test_this_machine_is_the_default() -> None:
    assert inspect.signature(app.ui).parameters["host"].default == "127.0.0.1"
    assert Path(ui.WORKSPACE).is_file()


def _limits() -> tuple[int, int, int]:
    """Runs that may be in progress, the default limit of pools, and that of the pool of what generates."""
    with dg.DagsterInstance.get() as instance:
        concurrency = instance.get_concurrency_config()
        pools = {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}
    runs, default = concurrency.run_queue_config, concurrency.pool_config.default_pool_limit
    assert runs is not None
    assert default is not None
    return runs.max_concurrent_runs, default, pools[GPU_POOL]


def test_as_many_runs_at_once_as_there_are_devices_at_each_start(
    tmp_path: Path, tiny_experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "dagster_home" / "dagster.yaml"
    for devices in (1, 3, 2):
        monkeypatch.setenv(CPU_DEVICES, str(devices))
        _said("127.0.0.1", monkeypatch, (str(tiny_experiment.source),))
        assert _limits() == (devices + 1, devices, devices)  # one more may start its process
    # What a person has edited stays.
    edited = settings.read_text(encoding="utf-8").replace("max_concurrent_runs: 3", "max_concurrent_runs: 1")
    settings.write_text(edited, encoding="utf-8")
    monkeypatch.setenv(CPU_DEVICES, "3")
    _said("127.0.0.1", monkeypatch, (str(tiny_experiment.source),))
    assert settings.read_text(encoding="utf-8") == edited
    assert _limits() == (1, 2, 3)
