"""What a cell costs beside its generation: in a warm `sweep`, at few and at many cells; and from the UI.

Cells are made up and tiny, so that what is left is the cost of having a cell at all. A sweep runs in a process of its
own, whose first cell is not counted: it imports and loads what all others use. Seconds are those of processor time,
which other work on the machine does not change, unless they are said to be of the clock.
Run: python benchmarks/orchestration.py [--cells 10 100] [--ui 4] [--json]
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from attribution import Attribution, Rule, shares
from spread import options, tell, where

_HERE = Path(__file__).resolve().parent
_SUBSETS = 10

RULES: list[Rule] = [
    ("/assets/chunk_making.py", None, "generation"),
    ("/backtracking_assets/models/", None, "generation"),
    ("/assets/identity.py", None, "checks"),
    ("/assets/checks.py", None, "checks"),
    ("/analysis/detection.py", None, "detection"),
    ("/analysis/metrics.py", None, "metrics"),
    ("/backtracking_assets/reporting/", None, "figures and page"),
    ("/backtracking_assets/storage/", None, "storage"),
    ("/backtracking_assets/assets/", None, "reading and digests"),
    ("/backtracking_assets/conditions.py", None, "reading and digests"),
    ("/backtracking_assets/problems.py", None, "reading and digests"),
    ("/site-packages/dagster", None, "Dagster"),
]
"""The innermost frame decides, so that what an asset logs is Dagster's."""


def study(folder: Path, cells: int) -> Path:
    """An experiment of tiny cells in a folder of its own; its file."""
    from backtracking_assets_tests.tiny import experiment_document, make_checkpoint, write_experiment, write_problems

    folder.mkdir()
    document = experiment_document(make_checkpoint(folder / "checkpoint"), write_problems(folder / "problems.jsonl"))
    subsets = min(cells, _SUBSETS)
    parts = [{"attention": [0]}, {"attention": [1]}, {"attention": [0, 1]}]
    parts += [{**part, "mlp": mlp} for part in [*parts, {}] for mlp in ([0], [1], [0, 1])]
    scales = -(-cells // subsets)
    document["layer_subsets"] = {f"subset_{index}": part for index, part in enumerate(parts[:subsets])}
    document["scales"] = [round(index / scales, 4) for index in range(scales)] + [1.0]
    document["plan"] = [
        {"layer_subsets": ["subset_0"], "scales": [1.0]},
        {"layer_subsets": list(document["layer_subsets"]), "scales": document["scales"][:-1]},
    ]
    del document["controls"]
    write_experiment(folder / "tiny.yaml", document)
    return folder / "tiny.yaml"


def environment(folder: Path) -> dict[str, str]:
    """Outputs, Dagster's folder and device locks of a benchmark, away from those of this machine."""
    return {
        "BACKTRACKING_HOME": str(folder / "runs"),
        "DAGSTER_HOME": str(folder / "dagster_home"),
        "BACKTRACKING_DEVICE_LOCKS": str(folder / "device_locks"),
        "PYTHONPATH": os.pathsep.join([str(_HERE.parent), str(_HERE), os.environ.get("PYTHONPATH", "")]),
    }


def sweep(file: Path) -> dict[str, Any]:
    """Sweep an experiment in this process, the baseline first and uncounted; seconds a cell."""
    import torch
    from rich.console import Console

    from backtracking_assets.cli.environment import prepare_environment
    from backtracking_assets.cli.sweep import run_sweep
    from backtracking_assets.experiment_file import load_experiment

    prepare_environment()
    torch.set_num_threads(1)
    count = len(load_experiment(file).planned_cells()) - 1
    with Path(os.devnull).open("w") as nowhere:
        quiet = Console(file=nowhere)
        assert run_sweep(str(file), ["subset_0"], [1.0], "phase2", quiet) == 0
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with Attribution(RULES, ("/cli/runner.py", "run"), "elsewhere") as found:
            assert run_sweep(str(file), [], [], "phase2", quiet) == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Those that Dagster starts to capture output.
    of_children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found.seconds["child processes"] = of_children
    runs = cell_runs()
    tenth = max(1, min(10, len(runs) // 2))
    generation = found.seconds["generation"] / count
    return {
        "cells": count,
        "generation": generation,
        "beside_generation": sum(found.seconds.values()) / count - generation,
        "of_the_clock": found.wall / count,
        "parts": shares(found.seconds, count),
        "first_runs": statistics.median(runs[:tenth]),
        "last_runs": statistics.median(runs[-tenth:]),
        "functions": dict(list(shares(found.functions, count).items())[:40]),
    }


def cell_runs() -> list[float]:
    """Seconds of the clock of each run of a cell but the first, as Dagster has them, the oldest first."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        records = instance.get_run_records(dg.RunsFilter(job_name="phase2_cells"), ascending=True)
        return [record.end_time - record.start_time for record in records if record.end_time and record.start_time][1:]


def swept_apart(cells: int) -> dict[str, Any]:
    """`sweep` in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="orchestration-") as scratch:
        folder = Path(scratch) / "study"
        file = study(folder, cells)
        command = [sys.executable, str(_HERE / "orchestration.py"), "--sweep", str(file)]
        done = subprocess.run(
            command, env={**os.environ, **environment(folder)}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])


def backfilled(cells: int) -> dict[str, Any]:
    """A backfill of some cells of the organism, asked of the real UI; seconds of the clock a cell."""
    from backtracking_assets.assets.jobs import CELL_ASSETS
    from backtracking_assets.experiment_file import load_experiment
    from backtracking_assets.partitions import cell_key
    from backtracking_assets_tests.chaos.ui_tree import running_ui, wait_until

    # Such as need no means, which a sweep makes before.
    planned = load_experiment("organism").planned_cells()
    chosen = [str(cell_key(cell)) for cell in planned[:cells]]
    keys = [("organism", name) for name in CELL_ASSETS]
    ended = ("COMPLETED_SUCCESS", "COMPLETED_FAILED", "COMPLETED", "FAILED", "CANCELED")
    with tempfile.TemporaryDirectory(prefix="orchestration-") as scratch:
        folder = Path(scratch)
        with running_ui({**environment(folder), "HOME": scratch}, folder / "ui.log") as ui:
            asked = time.time()
            backfill = ui.backfill(keys, chosen)
            wait_until(lambda: ui.backfill_status(backfill) in ended, 120.0 * cells, "the backfill has ended")
            over = time.time()
            assert ui.backfill_status(backfill) == "COMPLETED_SUCCESS", (folder / "ui.log").read_text()
            found = [run["stats"] for run in ui.ask(_TIMES, {})["runsOrError"]["results"]]
        generation = _generation_seconds(folder / "runs" / "organism")
    runs = sorted(found, key=lambda run: run["startTime"])
    begun = [asked, *(run["endTime"] for run in runs[:-1])]
    waited = [run["launchTime"] - before for run, before in zip(runs, begun, strict=True)]
    return {
        "cells": cells,
        "plan": len(planned),
        "a_cell": (over - asked) / cells,
        "of_the_plan": (over - asked) / cells * len(planned),
        "parts": {
            "until it is launched, the first": waited[0],
            "until it is launched, the others": statistics.mean(waited[1:] or waited),
            "start of its process": statistics.mean(run["startTime"] - run["launchTime"] for run in runs),
            "run": statistics.mean(run["endTime"] - run["startTime"] for run in runs),
            "of that, generation": generation / cells,
            "until the end is noticed": over - runs[-1]["endTime"],
        },
    }


_TIMES = """
query { runsOrError(limit: 500) { ... on Runs { results {
  stats { ... on RunStatsSnapshot { enqueuedTime launchTime startTime endTime } }
} } } }
"""


def _generation_seconds(outputs: Path) -> float:
    from backtracking_assets.storage.database import reading
    from backtracking_assets.storage.layout import StoreLayout

    sql = "select sum(s) from (select any_value(chunk_seconds) as s from completions group by chunk_id)"
    with reading(StoreLayout(outputs)) as connection:
        row = connection.execute(sql).fetchone()
    assert row is not None
    return float(row[0])


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cells", type=int, nargs="*", default=[10, 100], help="sizes of the sweeps")
    parser.add_argument("--ui", type=int, default=0, help="cells to backfill from the UI (default none)")
    parser.add_argument("--sweep", type=Path, help="sweep this experiment file in this process; used by the others")
    asked = parser.parse_args()
    if asked.sweep is not None:
        print(json.dumps(sweep(asked.sweep)))
        return
    found: dict[str, Any] = {**where(), "sweeps": [swept_apart(cells) for cells in asked.cells]}
    sentences = []
    for one in found["sweeps"]:
        parts = ", ".join(f"{part} {seconds:.3f}" for part, seconds in one["parts"].items())
        sentences += [
            f"{one['cells']} cells: {one['beside_generation']:.3f} s a cell beside {one['generation']:.3f} s of "
            f"generation ({one['of_the_clock']:.2f} s of the clock): {parts}.",
            f"  Runs took {one['first_runs']:.2f} s of the clock at the start and {one['last_runs']:.2f} s at the end.",
        ]
        sentences += [f"    {seconds:.4f}  {name}" for name, seconds in one["functions"].items()]
    if asked.ui:
        found["backfill"] = one = backfilled(asked.ui)
        sentences.append(
            f"From the UI, {one['cells']} cells of the organism: {one['a_cell']:.1f} s of the clock a cell, "
            f"{one['of_the_plan'] / 60:.0f} minutes for the plan of {one['plan']}."
        )
        sentences += [f"    {seconds:7.2f}  {part}" for part, seconds in one["parts"].items()]
    tell(found, sentences, as_json=asked.json)


if __name__ == "__main__":
    main()
