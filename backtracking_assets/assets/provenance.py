"""Where results come from: versions, commit, devices and the command that makes them again."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import pyarrow as pa

from backtracking_assets.experiment import PROJECT_ROOT, Experiment
from backtracking_assets.experiment_file import experiment_names
from backtracking_assets.reporting.contents import Provenance

_DECIDING_PACKAGES = ("backtracking-assets", "torch", "transformers", "tokenizers", "math-verify", "dagster", "duckdb")


def provenance(experiment: Experiment, completions: pa.Table, run_id: str, arguments: str = "") -> Provenance:
    """Provenance of figures that were computed from these completions, given as rows of `records.COMPLETIONS`.

    Args:
        run_id: the run that computes the figures.
        arguments: what follows `backtracking sweep EXPERIMENT` in the command that makes them again.
    """
    times = completions["generated_at"].to_pylist()
    name = experiment.name if experiment.name in experiment_names() else str(experiment.source)
    return Provenance(
        run_ids=tuple(dict.fromkeys([run_id, *sorted(set(completions["run_id"].to_pylist()))])),
        devices=tuple(sorted(set(completions["device"].to_pylist()))),
        versions=versions(),
        commit=commit(),
        command=f"backtracking sweep {name} {arguments}".rstrip(),
        generated_from=min(times, default=None),
        generated_until=max(times, default=None),
        tokens_per_second=tokens_per_second(completions),
    )


def tokens_per_second(completions: pa.Table) -> float | None:
    """Generated tokens over the wall time of the chunks they were made in; None where there are none."""
    if completions.num_rows == 0:
        return None
    seconds = completions.group_by(["fingerprint", "chunk_id"]).aggregate([("chunk_seconds", "max")])
    total = sum(seconds["chunk_seconds_max"].to_pylist())
    return sum(completions["n_tokens"].to_pylist()) / total if total else None


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the results."""
    found = {"python": platform.python_version()}
    for package in _DECIDING_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def commit() -> str:
    """The commit of the source tree, marked if tracked files are changed; `unknown` outside a git checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{head} with local changes" if changed else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
