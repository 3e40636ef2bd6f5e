"""How much sooner two CPU devices finish the organism's sweep than one, each with one thread.

A part of the organism's plan, so many cells of its listed subsets with the baseline first, is swept from an empty
folder, as a person does it: `backtracking sweep`, a process with its start, its comparisons and its page. One device
and several in turn. What they generated is compared, token by token.
Run: python benchmarks/devices.py [--cells 8] [--devices 2] [--runs 5] [--json]
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from spread import MIN_RUNS, options, spread, tell, where

from backtracking_assets.experiment import PROJECT_ROOT
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.storage import queries
from backtracking_assets.storage.layout import StoreLayout

NAME = "part_of_organism"
COMMAND = "from backtracking_assets.cli import main; main()"
ORGANISM = PROJECT_ROOT / "data" / "experiments" / "organism.yaml"


@dataclass(frozen=True)
class Swept:
    """One sweep: its wall seconds, the processor seconds of all its processes, and what it generated."""

    wall: float
    processor: float
    tokens: dict[tuple[str, str, int], list[int]]


def part_of_organism(folder: Path, n_cells: int, changes: dict[str, Any]) -> Path:
    """An experiment file with the first cells of the organism's plan, the baseline among them."""
    document = yaml.safe_load(ORGANISM.read_text(encoding="utf-8")) | {"name": NAME}
    for section, key in (("model", "path"), ("problems", "path")):
        document[section][key] = str((ORGANISM.parent / document[section][key]).resolve())
    for section in ("positive_control", "continuation", "scan", "phase1"):
        document.pop(section)  # what is computed once for the whole study stands beside the sweep
    planned = [cell for cell in load_experiment("organism").planned_cells() if cell.scale < 1.0][: n_cells - 1]
    first = planned[0].layer_subset
    document["plan"] = [{"layer_subsets": [first], "scales": [1.0]}] + [
        {"layer_subsets": [cell.layer_subset], "scales": [cell.scale]} for cell in planned
    ]
    for section, change in changes.items():
        document[section] |= change
    file = folder / f"{NAME}.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return file


def swept(file: Path, home: Path, devices: int) -> Swept:
    environment = {
        **os.environ,
        "BACKTRACKING_HOME": str(home / "runs"),
        "DAGSTER_HOME": str(home / "dagster_home"),
        "BACKTRACKING_DEVICE_LOCKS": str(home / "device_locks"),
        "BACKTRACKING_CPU_DEVICES": str(devices),
        "BACKTRACKING_DOTENV": str(home / "none.env"),
    }
    environment.pop("BACKTRACKING_PUSH_URL", None)
    command = [sys.executable, "-c", COMMAND, "sweep", str(file)]
    started, used = time.perf_counter(), _Used()
    with (home.parent / f"{home.name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=PROJECT_ROOT, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            used.look(process.pid)
            time.sleep(0.1)
    wall = time.perf_counter() - started
    if process.returncode != 0:
        raise SystemExit((home.parent / f"{home.name}.log").read_text(encoding="utf-8"))
    layout = StoreLayout(home / "runs" / NAME)
    tokens = {}
    for fingerprint in queries.completion_counts(layout):
        table = queries.completions(layout, fingerprint)
        for row in table.select(["problem_id", "sample_id", "token_ids"]).to_pylist():
            tokens[fingerprint, row["problem_id"], row["sample_id"]] = row["token_ids"]
    return Swept(wall, used.seconds(), tokens)


class _Used:
    """Processor seconds of a process and all its descendants, as far as they were seen before they ended."""

    def __init__(self) -> None:
        self._seconds: dict[psutil.Process, float] = {}

    def look(self, pid: int) -> None:
        try:
            own = psutil.Process(pid)
            for process in (own, *own.children(recursive=True)):
                times = process.cpu_times()
                self._seconds[process] = times.user + times.system
        except psutil.Error:
            return

    def seconds(self) -> float:
        return sum(self._seconds.values())


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cells", type=int, default=8, help="cells of the plan, the baseline among them (default 8)")
    parser.add_argument("--devices", type=int, default=2, help="CPU devices that are compared with one (default 2)")
    parser.add_argument("--problems", type=int, help="problems a cell (default: all of the organism's)")
    asked = parser.parse_args()
    changes = (
        {} if asked.problems is None else {"problems": {"count": asked.problems}, "statistics": {"resamples": 200}}
    )
    several, alone = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = part_of_organism(folder, asked.cells, changes)
        for run in range(asked.runs):
            several.append(swept(file, folder / f"several_{run}", asked.devices))
            alone.append(swept(file, folder / f"alone_{run}", 1))
    one_kind = all(sweep.tokens == alone[0].tokens for sweep in (*several, *alone))
    found = {
        **where(),
        "cells": asked.cells,
        "devices": asked.devices,
        "one_over_several": spread([one.wall / more.wall for more, one in zip(several, alone, strict=True)]),
        "seconds_on_one": spread([sweep.wall for sweep in alone]),
        "seconds_on_several": spread([sweep.wall for sweep in several]),
        "processor_seconds_on_one": spread([sweep.processor for sweep in alone]),
        "processor_seconds_on_several": spread([sweep.processor for sweep in several]),
        "completions": len(alone[0].tokens),
        "same_tokens": one_kind,
    }
    sentences = [
        f"{asked.cells} cells of the organism, {found['completions']} completions, whole command: "
        f"one device / {asked.devices} devices = {found['one_over_several']}.",
        f"One takes {found['seconds_on_one']} s, {asked.devices} take {found['seconds_on_several']} s.",
        f"Processor time: {found['processor_seconds_on_one']} s and {found['processor_seconds_on_several']} s.",
        "All sweeps generated the same tokens." if one_kind else "The sweeps DIFFER in their tokens.",
    ]
    if asked.runs < MIN_RUNS:
        sentences.append(f"Fewer than {MIN_RUNS} runs: no figure to quote.")
    tell(found, sentences, as_json=asked.json)
    if not one_kind:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
