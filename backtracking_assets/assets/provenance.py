"""Where results come from: versions, commit, devices and the command that makes them again."""

import math
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import pyarrow as pa

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.execution.host import host_facts
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import experiment_names
from backtracking_assets.places import PROJECT_ROOT
from backtracking_assets.reporting.contents import Provenance
from backtracking_assets.reporting.formats import join_names, plural
from backtracking_assets.storage.sweep_queries import GENERATED

_DECIDING_PACKAGES = ("backtracking-assets", "torch", "transformers", "tokenizers", "math-verify", "dagster", "duckdb")


def provenance(
    experiment: Experiment, completions: pa.Table, run_id: str, chunk_sizes: Mapping[str, int], arguments: str = ""
) -> Provenance:
    """Provenance of figures that were computed from these completions, given as rows of `records.COMPLETIONS`.

    Args:
        run_id: the run that computes the figures; empty where it shall not be named.
        chunk_sizes: how many completions each chunk has, by its id.
        arguments: what follows `backtracking sweep EXPERIMENT` in the command that makes them again.
    """
    return provenance_of_chunks(experiment, _chunks(completions), run_id, chunk_sizes, arguments)


def provenance_of_chunks(
    experiment: Experiment, chunks: pa.Table, run_id: str, chunk_sizes: Mapping[str, int], arguments: str = ""
) -> Provenance:
    """`provenance`, given how the completions were made as `sweep_queries.generated` tells it."""
    name = experiment.name if experiment.name in experiment_names() else str(experiment.source)
    return Provenance(
        run_ids=tuple(dict.fromkeys(filter(None, [run_id, *sorted(set(chunks["run_id"].to_pylist()))]))),
        devices=tuple(sorted(set(chunks["device"].to_pylist()))),
        versions=versions(),
        commit=commit(),
        command=f"backtracking sweep {name} {arguments}".rstrip(),
        generated_from=min(chunks["generated_from"].to_pylist(), default=None),
        generated_until=max(chunks["generated_until"].to_pylist(), default=None),
        tokens_per_second=_speed(chunks),
        remarks=tuple(_remarks(chunks, chunk_sizes)),
    )


def _chunks(completions: pa.Table) -> pa.Table:
    """The columns `sweep_queries.GENERATED` from rows of `records.COMPLETIONS`."""
    return (
        completions.group_by(["fingerprint", "chunk_id", "device", "run_id", "batch_rows"])
        .aggregate(
            [
                ("n_tokens", "count"),
                ("n_tokens", "sum"),
                ("chunk_seconds", "max"),
                ("generated_at", "min"),
                ("generated_at", "max"),
            ]
        )
        .rename_columns(list(GENERATED))
    )


def with_sources(found: Provenance, opened: OpenExperiment, conditions: Mapping[str, str]) -> Provenance:
    """A study's provenance: with the machine, the checkpoint, the conditions, and all commands from the source on.

    Args:
        conditions: the fingerprint of each condition behind the figures, by what it is called.
    """
    checkpoint = opened.checkpoint
    steps = [found.command]
    if (head := found.commit.split()[0]) != "unknown":
        local = "  # and local changes, which are in no commit" if head != found.commit else ""
        steps = [f"git checkout {head}{local}", "pip install -e . -c constraints.txt", *steps]
    return replace(
        found,
        command="\n".join(steps),
        host=_host(opened),
        checkpoint={
            "weights": checkpoint.weights_digest,
            "tokenizer": checkpoint.tokenizer_digest,
            "dtype": opened.experiment.model.dtype,
        },
        conditions=conditions,
    )


def _host(opened: OpenExperiment) -> str:
    facts = host_facts(opened.layout.root)
    return f"{facts['cpu']}, {plural(facts['cpu_cores'], 'core')}, {facts['memory_gib']:g} GiB, {facts['system']}"


def _remarks(chunks: pa.Table, chunk_sizes: Mapping[str, int]) -> Iterator[str]:
    devices = sorted(set(chunks["device"].to_pylist()))
    if len(devices) > 1:
        yield (
            f"The completions were made on {len(devices)} kinds of device, {join_names(devices)}: last bits differ "
            "between them, so differences between completions are not of the layers alone."
        )
    batched = zip(*(chunks[name].to_pylist() for name in ("chunk_id", "batch_rows", "n_completions")), strict=True)
    smaller = [(chunk, n) for chunk, rows, n in batched if rows is not None and rows < chunk_sizes[chunk]]
    if smaller:
        n_completions, n_chunks = sum(n for _, n in smaller), len({chunk for chunk, _ in smaller})
        yield (
            f"{plural(n_completions, 'completion')} in {plural(n_chunks, 'chunk')} were computed in smaller "
            "batches than their chunk, which did not fit into the device's memory; last bits may differ from those of "
            "a whole chunk."
        )


def tokens_per_second(completions: pa.Table) -> float | None:
    """Generated tokens over the wall time of the chunks they were made in; None where there are none."""
    return _speed(_chunks(completions))


def _speed(chunks: pa.Table) -> float | None:
    if chunks.num_rows == 0:
        return None
    seconds = chunks.group_by(["fingerprint", "chunk_id"]).aggregate([("chunk_seconds", "max")])
    total = math.fsum(seconds["chunk_seconds_max"].to_pylist())
    return sum(chunks["n_tokens"].to_pylist()) / total if total else None


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
