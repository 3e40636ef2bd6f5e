"""Facts about this machine: processor, memory, disk, GPUs and their driver."""

import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import psutil


def host_facts(outputs: Path) -> dict[str, Any]:
    """Host, processor, memory and the disk that holds `outputs`; sizes in GiB."""
    memory = psutil.virtual_memory()
    folder = next(path for path in (outputs, *outputs.parents) if path.exists())
    disk = shutil.disk_usage(folder)
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": processor(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory.total / 2**30, 1),
        "memory_free_gib": round(memory.available / 2**30, 1),
        "disk_free_gib": round(disk.free / 2**30, 1),
        "outputs": str(outputs),
    }


def gpu_facts() -> dict[str, Any]:
    """CUDA devices as torch sees them, the CUDA version it was built for, and the driver as nvidia-smi names it."""
    import torch

    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            devices.append(
                {
                    "device": f"cuda:{index}",
                    "name": torch.cuda.get_device_name(index),
                    "memory_gib": round(total / 2**30, 1),
                    "memory_free_gib": round(free / 2**30, 1),
                }
            )
    return {"gpus": devices, "cuda_of_torch": torch.version.cuda, "driver": _driver()}


def processor() -> str:
    """The model of this machine's processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return found[0] if found else None
