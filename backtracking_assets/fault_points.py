"""Named places in the life of a cell at which a test can kill the process, as a machine that goes away would.

Nothing happens unless the environment asks for it: `BACKTRACKING_FAULT=chunk written` or `chunk written#3` kills the
process with SIGKILL when it reaches that point for the first or third time; `BACKTRACKING_FAULT_LOG` names a file to
which every point that is reached is appended, one line each.
"""

import os
import signal
from collections import Counter
from typing import Literal, get_args

FaultPoint = Literal[
    "plan written",
    "plan in place",
    "chunk started",
    "progress written",
    "progress in place",
    "chunk generated",
    "chunk written",
    "chunk in place",
    "archive written",
    "archive in place",
    "database written",
    "database in place",
    "condition half replaced",
    "transaction open",
    "transaction committed",
    "journal half cleared",
    "journal cleared",
    "cell linked",
    "checks written",
    "detections written",
    "metrics written",
    "page written",
    "page in place",
    "comparisons written",
]
"""`written`: the file is whole and flushed under its temporary name; `in place`: it has its own name."""

POINTS: tuple[FaultPoint, ...] = get_args(FaultPoint)

_reached: Counter[str] = Counter()


def reached(point: FaultPoint, detail: str = "") -> None:
    """Say that the process is at this point; ends it if the environment asks for that.

    Args:
        detail: what is at work, such as a chunk's id; for the log only.
    """
    wanted, log = os.environ.get("BACKTRACKING_FAULT"), os.environ.get("BACKTRACKING_FAULT_LOG")
    if wanted is None and log is None:
        return
    _reached[point] += 1
    if log is not None:
        # One short write to a file opened for appending: lines of several processes do not mix.
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{os.getpid()}\t{point}\t{detail}\n".encode())
        finally:
            os.close(descriptor)
    if wanted is not None:
        name, _, number = wanted.partition("#")
        if name == point and _reached[point] == int(number or 1):
            os.kill(os.getpid(), signal.SIGKILL)
