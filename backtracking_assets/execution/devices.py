"""Devices, and leases on them that the kernel releases when the process that holds one dies."""

import getpass
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from backtracking_assets.errors import BacktrackingError
from backtracking_assets.execution.cpu_devices import n_cpu_devices
from backtracking_assets.experiment import Experiment

_POLL_SECONDS = 0.5
_held: list[str] = []
"""Devices leased by this process, innermost last. One process generates on one device at a time."""


def devices_of(experiment: Experiment) -> tuple[str, ...]:
    """The devices that an experiment generates on, each in a process of its own. Never empty.

    Raises:
        BacktrackingError: see `devices_for` and `n_cpu_devices`.
    """
    generation = experiment.generation
    return devices_for(experiment.model.device, n_cpu_devices(generation.cpu_devices, generation.threads))


def devices_for(wanted: str, n_cpu: int = 1) -> tuple[str, ...]:
    """The devices that serve a wish: `auto`, `cpu`, `cuda` or `cuda:N`. Never empty.

    `auto` is every CUDA device, or the CPU where there is none. The CPU is `cpu`, or `cpu:0`, `cpu:1`, … where it is
    lent as several devices.

    Raises:
        BacktrackingError: a CUDA device is asked for and is not there.
    """
    cpu = ("cpu",) if n_cpu == 1 else tuple(f"cpu:{index}" for index in range(n_cpu))
    if wanted == "cpu":
        return cpu
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cuda = tuple(f"cuda:{index}" for index in range(count))
    if wanted == "auto":
        return cuda or cpu
    if wanted == "cuda" and cuda:
        return cuda
    if wanted in cuda:
        return (wanted,)
    raise BacktrackingError(
        f"The experiment asks for device {wanted} and torch sees {', '.join(cuda) or 'no CUDA device'}; "
        "set model.device to auto or cpu, or install the CUDA build of torch."
    )


def device_locks_dir() -> Path:
    """Folder of the device locks: one a machine and user, whichever experiments and output folders are at work.

    `BACKTRACKING_DEVICE_LOCKS` moves it, for a machine whose users share the GPUs.
    """
    if folder := os.environ.get("BACKTRACKING_DEVICE_LOCKS"):
        return Path(folder)
    return Path(tempfile.gettempdir()) / f"backtracking-devices-{getpass.getuser()}"


def is_cpu(device: str) -> bool:
    """Whether a device is the CPU or a part of it."""
    return device == "cpu" or device.startswith("cpu:")


def torch_device(device: str) -> str:
    """What torch calls a device: it knows no parts of the CPU."""
    return "cpu" if is_cpu(device) else device


def _lock_name(device: str) -> str:
    """A GPU by its identity: under CUDA_VISIBLE_DEVICES, one process's `cuda:0` may be another one's `cuda:1`.

    The CPU as a whole is its first device, so that experiments that lend it as one and as several get along.
    """
    if device == "cpu":
        return "cpu-0"
    if device.startswith("cuda"):
        import torch

        if torch.cuda.is_available():
            return f"gpu-{torch.cuda.get_device_properties(device).uuid}"
    return device.replace(":", "-")


def device_name(device: str) -> str:
    """What stands in the rows: `cpu` with the machine's architecture, or the GPU's model."""
    if is_cpu(device):
        import platform

        return f"cpu ({platform.machine()})"
    import torch

    return torch.cuda.get_device_name(device)


@contextmanager
def leased_device(
    devices: Sequence[str],
    locks_dir: Path,
    *,
    on_wait: Callable[[float], None] = lambda seconds: None,
    timeout: float | None = None,
) -> Iterator[str]:
    """Hold one of the devices for the length of a `with` block; waits while all are taken.

    Inside a block of the same process the outer lease serves: the executor takes it for the run, and the asset inside
    asks again without waiting for itself.

    Args:
        locks_dir: folder of the lock files, one a device. The kernel releases a lock when its process ends in any way.
        on_wait: called with the seconds waited so far, about every 10 s.
        timeout: seconds after which to give up; None waits for ever.

    Raises:
        BacktrackingError: no device came free within the timeout.
    """
    if _held and _held[-1] in devices:
        yield _held[-1]
        return
    device, lock = _acquire(devices, locks_dir, on_wait, timeout)
    _held.append(device)
    try:
        yield device
    finally:
        _held.remove(device)
        lock.release()


def lease_of(
    experiment: Experiment, log: Callable[[str], object] = lambda sentence: None
) -> AbstractContextManager[str]:
    """A lease on one of an experiment's devices, as `leased_device` gives it; the log is told of a wait.

    Raises:
        BacktrackingError: see `devices_of`.
    """

    def waiting(seconds: float) -> None:
        log(f"All devices are taken by other processes; waiting ({seconds:.0f} s so far).")

    return leased_device(devices_of(experiment), device_locks_dir(), on_wait=waiting)


def _acquire(
    devices: Sequence[str], locks_dir: Path, on_wait: Callable[[float], None], timeout: float | None
) -> tuple[str, FileLock]:
    locks_dir.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    told = 0.0
    while True:
        for device in devices:
            lock = FileLock(locks_dir / f"{_lock_name(device)}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return device, lock
        waited = time.monotonic() - started
        if timeout is not None and waited >= timeout:
            raise BacktrackingError(
                f"No device came free within {timeout:.0f} s ({', '.join(devices)} taken by other processes); "
                "wait for them to end, then start again."
            )
        if waited - told >= 10 or told == 0.0:
            on_wait(waited)
            told = max(waited, 1e-9)
        time.sleep(_POLL_SECONDS)
