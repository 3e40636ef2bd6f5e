"""Tags that say which process carries a run, so that a later start can tell whether it still lives."""

import os
import socket
from datetime import UTC, datetime

import psutil

HOST_TAG = "backtracking/host"
PID_TAG = "backtracking/pid"
STARTED_TAG = "backtracking/process_started"
DEVICE_TAG = "backtracking/device"


def process_tags(device: str | None = None) -> dict[str, str]:
    """Host, process id and start time of this process, and the device it holds.

    The start time tells a process from a later one with the same id.
    """
    started = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    tags = {
        HOST_TAG: socket.gethostname(),
        PID_TAG: str(os.getpid()),
        STARTED_TAG: started.isoformat(timespec="milliseconds"),
    }
    if device is not None:
        tags[DEVICE_TAG] = device
    return tags
