"""The UI listens on this machine only unless told otherwise, and then says that it has no login."""

import inspect
import io
import os
import socket
from pathlib import Path

import pytest
from rich.console import Console

from backtracking_assets.cli import app, ui


class _BecameError(Exception):
    """Raised in place of becoming `dagster dev`."""


def _said(host: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """What is printed before the UI starts on a host, and the command that it becomes."""
    commands: list[list[str]] = []

    def become(program: str, command: list[str]) -> None:
        commands.append(command)
        raise _BecameError

    monkeypatch.setattr(os, "execv", become)
    monkeypatch.setattr(ui, "experiment_names", lambda: ())
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
