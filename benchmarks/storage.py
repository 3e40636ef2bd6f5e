"""What the store costs as it grows: committing a cell, the status, opening the database, reading a cell.

A store of 2,000 conditions x 500 completions of about 2 kB (`large_store.py`) is filled; at 5%, 25% and all of its
cells, further cells are committed one by one through the functions that a sweep calls, and each step is timed. Cells of
a store that is there already are taken out and committed anew.
Run: python benchmarks/storage.py [--conditions 2000] [--completions 500] [--folder DIRECTORY] [--json]
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from large_store import NAME, LargeStore, open_store, write_experiment
from spread import MIN_RUNS, Spread, options, spread, tell, where

from backtracking_assets.assets.status import planned_status
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import compact
from backtracking_assets.storage.chunks import cut
from backtracking_assets.storage.database import reading, writing
from backtracking_assets.storage.journal import clear_journal, finish_chunk
from backtracking_assets.storage.rows import keys_of

STAGES = (0.05, 0.25, 1.0)
"""Shares of the plan's cells at which is measured."""

_IN_DATABASE = (
    "completions to database",
    "link",
    "checks of generations",
    "detections",
    "metrics",
)


@dataclass(frozen=True)
class Cost:
    """Seconds of one thing, over several runs."""

    wall: Spread
    processor: Spread

    def __str__(self) -> str:
        return f"{self.wall} s, of the processor {self.processor.median:.3f} s"


class Clock:
    """Wall and processor seconds by name."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.processor: dict[str, list[float]] = {}

    @contextmanager
    def timed(self, name: str, processor: Callable[[], float] = time.process_time) -> Iterator[None]:
        wall, used = time.perf_counter(), processor()
        yield
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        self.processor.setdefault(name, []).append(processor() - used)

    def total(self, name: str, of: Sequence[str]) -> None:
        """Add up the named times run by run."""
        for times in (self.wall, self.processor):
            times[name] = [sum(run) for run in zip(*(times[part] for part in of), strict=True)]

    def costs(self) -> dict[str, Cost]:
        return {name: Cost(spread(self.wall[name]), spread(self.processor[name])) for name in self.wall}


def commit(store: LargeStore, cell: Cell, clock: Clock) -> None:
    """Make one cell from its completions on, as a sweep does; the figures themselves are computed off the clock."""
    opened, layout = store.opened, store.opened.layout
    condition, completions, _ = store.rows_of(cell)
    size = opened.experiment.generation.completions_per_chunk
    place = {key: row for row, key in enumerate(keys_of(completions))}
    chunks = cut(condition.fingerprint, opened.keys(), size)
    with clock.timed("journal"):
        for chunk in chunks:
            rows = completions.take([place[key] for key in chunk.keys])
            number = rows.column_names.index("chunk_id")
            named = rows.set_column(number, "chunk_id", [[chunk.chunk_id] * rows.num_rows])
            finish_chunk(layout, condition.fingerprint, chunk, named)
    layout.archive_of(condition.fingerprint).unlink(missing_ok=True)
    with clock.timed("archive"):
        compact(layout, condition)
    store.commit(cell, clock.timed)
    clear_journal(layout, condition.fingerprint)


def stage(folder: Path, file: Path, store: LargeStore, n_cells: int, runs: int) -> dict[str, Any]:
    """Have so many cells in the store, the last ones committed on the clock, and time what reads it."""
    clock, layout = Clock(), store.opened.layout
    last = store.plan[n_cells - runs : n_cells]
    if store.stored() >= n_cells:
        store.forget(last)
    for filled in store.fill(n_cells - runs):
        print(f"{filled} cells filled in", file=sys.stderr)
    for cell in last:
        commit(store, cell, clock)
    clock.total("commit", _IN_DATABASE)
    store.write_pages()
    environment = {**os.environ, "BACKTRACKING_HOME": str(folder / "runs"), "DAGSTER_HOME": str(folder / "dagster")}
    (folder / "dagster").mkdir(exist_ok=True)
    row = queries.cell_row(layout, last[-1])
    assert row is not None
    for _ in range(runs):
        opened = open_store(file)
        with clock.timed("planned_status"):
            planned_status(opened)
        with clock.timed("backtracking status", _of_children):
            command = [sys.executable, "-c", "from backtracking_assets.cli import main; main()", "status", str(file)]
            subprocess.run(command, env=environment, capture_output=True, check=True)
        with clock.timed("read a cell"):
            queries.completions(layout, row["fingerprint"])
            queries.detections(layout, row["fingerprint"], row["rules_digest"])
        with clock.timed("open to read"), reading(layout):
            pass
        with clock.timed("open to write"), writing(layout):
            pass
    undone = [status for status in planned_status(store.opened)[:n_cells] if status.state != "done"]
    if undone:
        raise SystemExit(f"{len(undone)} of {n_cells} cells are not done: {undone[0]}")
    return {
        "cells": n_cells,
        "completions": n_cells * store.opened.experiment.completions_per_cell,
        "database_mb": round(layout.database.stat().st_size / 1e6),
        "archive_mb": round(sum(path.stat().st_size for path in layout.archive.iterdir()) / 1e6),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "costs": {name: asdict(cost) for name, cost in clock.costs().items()},
        "sentences": [f"  {name}: {cost}." for name, cost in clock.costs().items()],
    }


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--conditions", type=int, default=2000)
    parser.add_argument("--completions", type=int, default=500, help="completions of a condition")
    parser.add_argument("--folder", type=Path, help="where the store is made and stays; without it, it is removed")
    parser.add_argument("--last", action="store_true", help="measure at the full size only")
    asked = parser.parse_args()
    runs = max(asked.runs, MIN_RUNS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        file = folder / f"{NAME}.yaml"
        if not file.exists():
            write_experiment(folder, conditions=asked.conditions, completions=asked.completions)
        store = LargeStore(open_store(file))
        sizes = [max(round(share * len(store.plan)), runs + 1) for share in (STAGES[-1:] if asked.last else STAGES)]
        stages = [stage(folder, file, store, n_cells, runs) for n_cells in dict.fromkeys(sizes)]
        row_bytes = round(store.pool.nbytes / store.pool.num_rows)
    sentences = []
    for found in stages:
        sentences += [
            f"{found['cells']} cells, {found['completions']} completions of {row_bytes} bytes: the database has "
            f"{found['database_mb']} MB, the archive {found['archive_mb']} MB.",
            *found.pop("sentences"),
        ]
    found = {**where(), "row_bytes": row_bytes, "runs": runs, "stages": stages}
    tell(found, sentences, as_json=asked.json)


if __name__ == "__main__":
    main()
