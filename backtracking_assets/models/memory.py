"""How much memory a device has, and what torch says where it is used up."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

_WANTED = re.compile(r"[Tt]ried to allocate ([\d.]+ (?:[KMGT]i?B|bytes))")
_FREE = re.compile(r"of which ([\d.]+ [KMGT]?i?B) is free")
_CPU = "DefaultCPUAllocator: "
_CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory. On a CPU it raises a plain RuntimeError, and where the system overcommits, the
    kernel ends the process before."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return _CPU in str(error) and "memory" in str(error).partition(_CPU)[2]


def out_of_memory_facts(error: RuntimeError) -> str:
    """` (2.00 GiB more were needed, 1.25 GiB are free)` as far as torch's message tells; empty where it does not."""
    wanted, free = _WANTED.search(str(error)), _FREE.search(str(error))
    facts = [f"{wanted[1]} more were needed"] if wanted else []
    facts += [f"{free[1]} are free"] if free else []
    return f" ({', '.join(facts)})" if facts else ""


def release_memory(device: torch.device) -> None:
    """Give back what torch keeps of a device's memory for itself: in pieces that do not fit, it is of no use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of a device in bytes."""

    total: int
    usable: int
    """What is free now, and what this process holds already."""


def device_memory(device: str) -> DeviceMemory:
    """The memory of a device (`cpu`, `cuda:0`, …). A CPU has that of the machine, or of the container around it."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(total, free + torch.cuda.memory_reserved(device))
    machine, own = psutil.virtual_memory(), psutil.Process().memory_info().rss
    limit = _container_limit()
    total = machine.total if limit is None else min(machine.total, limit)
    return DeviceMemory(total, min(total, machine.available + own))


def _container_limit() -> int | None:
    """Bytes that the control group of this process allows; None where it sets no limit."""
    for path in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # not there, or the word `max`
            return int(path.read_text(encoding="ascii"))
    return None
