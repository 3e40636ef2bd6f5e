"""What torch says about a device whose memory is used up."""

import re

import torch

_WANTED = re.compile(r"Tried to allocate ([\d.]+ [KMGT]?i?B)")
_FREE = re.compile(r"of which ([\d.]+ [KMGT]?i?B) is free")


def out_of_memory_facts(error: torch.OutOfMemoryError) -> str:
    """` (2.00 GiB more were needed, 1.25 GiB are free)` as far as torch's message tells; empty where it does not."""
    wanted, free = _WANTED.search(str(error)), _FREE.search(str(error))
    facts = [f"{wanted[1]} more were needed"] if wanted else []
    facts += [f"{free[1]} are free"] if free else []
    return f" ({', '.join(facts)})" if facts else ""
