"""The process environment that every command starts from."""

import os
import tempfile
from pathlib import Path

from dotenv import load_dotenv

from backtracking_assets.places import PROJECT_ROOT


def prepare_environment() -> None:
    """Read the project's `.env`, or the file that `BACKTRACKING_DOTENV` names, and keep libraries from needing a
    display or a writable home folder, and from taking cores that others use."""
    load_dotenv(os.environ.get("BACKTRACKING_DOTENV") or PROJECT_ROOT / ".env")  # what is set already wins
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # numpy's threads wait for work by spinning, on cores where other devices generate; resampling gains little by them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warns when a process forks after using it
    if "MPLCONFIGDIR" not in os.environ and not _writable_home():
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="backtracking-matplotlib-")


def _writable_home() -> bool:
    try:
        return os.access(Path.home(), os.W_OK)
    except RuntimeError:  # no home folder is known
        return False
