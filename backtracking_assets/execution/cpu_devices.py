"""How many devices the CPU of this machine is lent as: each is one process with its own model and threads."""

import os
from typing import Literal

import psutil

from backtracking_assets.errors import BacktrackingError

CPU_DEVICES = "BACKTRACKING_CPU_DEVICES"
"""Environment variable with the number of devices; it stands above what the experiment file says."""

_MOST = 8
_MEMORY_EACH = 2 * 2**30


def n_cpu_devices(asked: int | Literal["auto"], threads: int) -> int:
    """How many devices the CPU is lent as, at least one.

    `auto` is one for every `threads` cores that this process may use, as far as there are 2 GiB of memory for each,
    and at most 8: a process takes 0.6 GiB before it has loaded a model, and all of them share one database.

    Raises:
        BacktrackingError: the environment variable is no number of devices.
    """
    if value := os.environ.get(CPU_DEVICES):
        if not (value.isascii() and value.isdigit() and int(value) >= 1):
            raise BacktrackingError(
                f"{CPU_DEVICES} is {value!r} and must be a number of devices from 1 on; correct it."
            )
        return int(value)
    if asked != "auto":
        return asked
    return max(1, min(_cores() // threads, psutil.virtual_memory().total // _MEMORY_EACH, _MOST))


def _cores() -> int:
    """Cores, without a second thread of each, that this process may run on."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, psutil.cpu_count(logical=False) or usable)
