"""Real disks of a few megabytes: a tmpfs that fills up, or that is mounted read-only."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, megabytes: float) -> Iterator[Path]:
    """A tmpfs of this size on a new folder, unmounted whatever happens; skips where mounting is not permitted."""
    folder.mkdir(parents=True)
    size = f"size={int(megabytes * 2**20)}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip() or done.returncode}")
    try:
        yield folder
    finally:
        # Lazily: a process that a failing test left behind must not keep the disk.
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill the folder's disk up to `leave` free bytes with one file, which is returned."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while (free := _free(folder) - leave) > 0:
            try:
                file.write(b"\0" * min(free, 2**20))
            except OSError:
                break
    return ballast


def set_read_only(folder: Path, read_only: bool) -> None:
    """Mount a disk anew, for reading alone or for writing too."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if read_only else 'rw'}", folder], check=True)


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
