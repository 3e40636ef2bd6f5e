"""A process that imports what workers of a sweep need, beside the sweep itself, and from which they are forked."""

import multiprocessing
import multiprocessing.util
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver

from backtracking_assets.execution.cpu_devices import n_cpu_devices
from backtracking_assets.experiment_file import load_experiment

CONTEXT = multiprocessing.get_context("forkserver")

_PRELOADED = (
    "backtracking_assets.cli.worker",
    "backtracking_assets.models.generation",
    "backtracking_assets.models.loading",
    # Imported late by what uses them.
    "math_verify",
    "sqlalchemy.dialects.sqlite",
)


CONTEXT.set_forkserver_preload(list(_PRELOADED))


def start_fork_server() -> None:
    """Have the process import what workers need, beside this one. Nothing happens where it runs already.

    It touches no GPU: a process that has cannot be forked. It ends with this process.
    """
    # Ctrl-C reaches every process of the terminal; only the sweep is to hear it.
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


@contextmanager
def forking_workers(experiment: str, most_devices: int | None) -> Iterator[None]:
    """Have workers forked within the block, and begin with it at once where an experiment is sure to want several.

    What it finds takes no torch: whether there are GPUs is seen later, and the process is started then.

    Raises:
        ExperimentError: the experiment cannot be loaded.
    """
    loaded = load_experiment(experiment)
    generation, device = loaded.generation, loaded.model.device
    n_cpu = n_cpu_devices(generation.cpu_devices, generation.threads) if device in ("auto", "cpu") else 1
    if n_cpu > 1 and most_devices != 1:
        start_fork_server()
    try:
        yield
    finally:
        # Commands end without those who would remove the folder of the server's socket. A child's is its parent's.
        if multiprocessing.parent_process() is None:
            shutil.rmtree(multiprocessing.util.get_temp_dir(), ignore_errors=True)
