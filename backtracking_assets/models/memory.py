"""What torch says about a device whose memory is used up."""

import re

import torch

_WANTED = re.compile(r"[Tt]ried to allocate ([\d.]+ (?:[KMGT]i?B|bytes))")
_FREE = re.compile(r"of which ([\d.]+ [KMGT]?i?B) is free")
_CPU = "DefaultCPUAllocator: "


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
