"""`backtracking ui`: Dagster's web server, daemon and code locations as one process tree."""

import os
import socket
import sys

from rich.console import Console

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.cli.instance import DEFAULT_DAGSTER_HOME, open_instance
from backtracking_assets.cli.reconcile import reconcile_with_progress
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.execution.dagster_home import follow_devices, set_gpu_pool_limit
from backtracking_assets.execution.devices import devices_of
from backtracking_assets.experiment_file import experiment_names, load_experiment
from backtracking_assets.places import PROJECT_ROOT

WORKSPACE = PROJECT_ROOT / "workspace.yaml"


def run_ui(host: str, port: int, console: Console) -> None:
    """Have Dagster's record agree with the store of each experiment, then become `dagster dev`. Does not return.

    Raises:
        BacktrackingError: the port is taken, or the instance folder cannot be written.
    """
    _refuse_busy_port(host, port)
    devices = _n_devices()
    follow_devices(DEFAULT_DAGSTER_HOME, devices)
    with open_instance() as instance:
        set_gpu_pool_limit(instance, devices)
        for name in experiment_names():
            try:
                reconcile_with_progress(instance, OpenExperiment(load_experiment(name), download=False), console)
            except BacktrackingError as error:
                console.print(
                    f"{name}: not reconciled with Dagster. {error}", style="yellow", markup=False, soft_wrap=True
                )
    if host not in ("127.0.0.1", "localhost", "::1"):
        console.print(
            f"Warning: the UI has no login, and on {host} other machines can reach it and run anything here.",
            style="red",
        )
    console.print(f"Dagster UI: http://{host}:{port} (Ctrl-C stops it)")
    # Dagster recommends its project tool over `dagster dev` at every start; it needs no such tool here.
    quiet = ["-W", "ignore:Function `dev_command`"]
    command = [sys.executable, *quiet, "-m", "dagster", "dev", "-w", str(WORKSPACE), "-h", host, "-p", str(port)]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def _n_devices() -> int:
    """How many runs may generate at once: the devices of the experiment that has most of them here."""
    found = [1]
    for name in experiment_names():
        try:
            found.append(len(devices_of(load_experiment(name))))
        except BacktrackingError:
            continue  # said where the experiment is reconciled, or when it is run
    return max(found)


def _refuse_busy_port(host: str, port: int) -> None:
    # A second `dagster dev` on a busy port starts without an error and shows the first one's page.
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BacktrackingError(
                f"{host}:{port} cannot be listened on ({error.strerror}); "
                "stop what uses it, or choose another with --port."
            ) from error
