"""Tags that say which process carries a run, so that a later start can tell whether it still lives."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil

HOST_TAG = "backtracking/host"
PID_TAG = "backtracking/pid"
RUN_TAG = "backtracking/run"
"""The run that a process tagged: a retry inherits its parent's tags, and must not be taken for the dead parent."""
STARTED_TAG = "backtracking/process_started"
DEVICE_TAG = "backtracking/device"


def process_tags(run_id: str, device: str | None = None) -> dict[str, str]:
    """Host, process id and start of this process, which carries the run, and the device it holds."""
    started = process_start(os.getpid())
    assert started is not None
    tags = {HOST_TAG: socket.gethostname(), PID_TAG: str(os.getpid()), STARTED_TAG: started, RUN_TAG: run_id}
    if device is not None:
        tags[DEVICE_TAG] = device
    return tags


def process_start(pid: int) -> str | None:
    """What tells a process from a later one with the same id; None where no such process runs (a zombie has ended).

    On Linux the boot and the clock ticks since then, which setting the clock does not change; elsewhere a time.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if psutil.LINUX:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            # The command, in parentheses, may hold spaces; the start is the 20th field after it (proc(5), stat).
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return f"{boot}:{fields[19]}"
        return f"{process.create_time():.3f}"
    except (psutil.Error, OSError):
        return None


def is_dead(run_id: str, tags: Mapping[str, str]) -> bool:
    """Whether the process that tagged a run is known to be gone.

    False for a run without tags of its own and for one of another host: nothing is known of those.
    """
    if tags.get(RUN_TAG) != run_id or tags.get(HOST_TAG) != socket.gethostname():
        return False
    if PID_TAG not in tags or STARTED_TAG not in tags:
        return False
    return process_start(int(tags[PID_TAG])) != tags[STARTED_TAG]
