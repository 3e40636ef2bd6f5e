"""Other processes: commands as a shell would start them, and functions that run beside each other.

Processes are forked from a server that has imported torch and Dagster once, which saves seconds a process. Each is a
real process with its own environment, exit code, locks and standard streams.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

_PRELOADED = (
    "backtracking_assets.cli.sweep",
    "backtracking_assets.cli.status",
    "backtracking_assets.cli.doctor",
    "backtracking_assets.models.generation",
    "backtracking_assets.models.loading",
    "backtracking_assets_tests.integration.processes",
    # Imported late by what uses them.
    "alembic",
    "math_verify",
    "sqlalchemy.dialects.sqlite",
    "transformers.models.qwen2.modeling_qwen2",
)

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(_PRELOADED))


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int | None
    stdout: str
    stderr: str


def start(function: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a module-level function in a process of its own."""
    process = _CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def finish(process: BaseProcess, timeout: float = 800) -> int | None:
    """Wait for a process; its exit code. A process that outlives the timeout (seconds) is killed and fails the test."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"the process did not end within {timeout:.0f} s")
    return process.exitcode


@dataclass(frozen=True)
class Command:
    """A running command."""

    process: BaseProcess
    stdout: Path
    stderr: Path

    def wait(self) -> Finished:
        code = finish(self.process)
        return Finished(code, self.stdout.read_text(encoding="utf-8"), self.stderr.read_text(encoding="utf-8"))


def start_backtracking(*arguments: str, environment: Mapping[str, str], folder: Path) -> Command:
    """Start the command line with these arguments and, besides PATH, only this environment; streams go to `folder`."""
    files = folder / "stdout.txt", folder / "stderr.txt"
    return Command(start(_run_command, arguments, dict(environment), files), *files)


def backtracking(*arguments: str, environment: Mapping[str, str], folder: Path) -> Finished:
    """Run the command line to its end; see `start_backtracking`."""
    return start_backtracking(*arguments, environment=environment, folder=folder).wait()


def _run_command(arguments: Sequence[str], environment: dict[str, str], files: Sequence[Path]) -> None:
    replace_environment(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background of a shell
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = ["backtracking", *arguments]
    from backtracking_assets.cli import main

    main()


def replace_environment(environment: Mapping[str, str]) -> None:
    """Have this process see this environment and PATH only."""
    path = os.environ["PATH"]
    os.environ.clear()
    os.environ.update({"PATH": path, "COLUMNS": "160", **environment})
