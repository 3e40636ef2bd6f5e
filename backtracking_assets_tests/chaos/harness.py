"""Killing sweeps, and comparing what is left at the end with a sweep that nothing interrupted."""

import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pyarrow as pa

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import has_version, report_path
from backtracking_assets.assets.stored_cells import current_baseline, current_cells
from backtracking_assets.assets.sweep_status import sweep_status
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.storage.archive import archived_fingerprints, read_archive
from backtracking_assets.storage.database import reading
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.tables import TABLES
from backtracking_assets_tests.integration.processes import Command, start_backtracking
from backtracking_assets_tests.integration.studies import Study

WHERE_AND_WHEN = frozenset({"run_id", "generated_at", "chunk_seconds", "created_at", "committed_at"})
"""Columns that say which run wrote a row and when; all others are the same however often the sweep was killed."""

KILLED = -9


@dataclass(frozen=True)
class Outcome:
    """What a sweep leaves: every table and archive without run ids and times, and files that should not be there."""

    tables: dict[str, pa.Table]
    archives: dict[str, pa.Table]
    leftovers: tuple[str, ...]
    current_pages: frozenset[str]
    """Pages that carry the version of what the store holds."""


def outcome(study: Study) -> Outcome:
    """Read everything that a study's sweep has left."""
    with study.active():
        return outcome_of(load_experiment(study.file), study.layout)


def outcome_of(experiment: Experiment, layout: StoreLayout) -> Outcome:
    """The same of any experiment, with the environment that its sweep ran in."""
    opened = OpenExperiment(experiment)
    cells, baseline = current_cells(opened, experiment.planned_cells()), current_baseline(opened)
    pages = {str(c.cell) for c in cells if has_version(report_path(opened, c.cell), c.page_version(baseline))}
    if sweep_status(opened).page.state == "current":
        pages.add("the sweep")
    return Outcome(
        tables={name: _table(layout, name) for name in TABLES},
        archives={name: _comparable(read_archive(layout, name)) for name in archived_fingerprints(layout)},
        leftovers=_leftovers(layout),
        current_pages=frozenset(pages),
    )


def differences(one: Outcome, other: Outcome) -> list[str]:
    """What differs between two outcomes; empty where they are the same, row by row and value by value."""
    found = [name for name in TABLES if not one.tables[name].equals(other.tables[name])]
    if one.archives.keys() != other.archives.keys():
        found.append("archived conditions")
    found += [f"archive {name[:12]}" for name, table in one.archives.items() if table != other.archives.get(name)]
    if one.current_pages != other.current_pages:
        found.append(f"pages {sorted(one.current_pages ^ other.current_pages)}")
    return found + [f"{where}: {name}" for where, o in (("one", one), ("other", other)) for name in o.leftovers]


def generated_again(log: Path) -> int:
    """How many chunks were begun that had been begun before, by the log of fault points."""
    lines = [line.split("\t") for line in log.read_text(encoding="utf-8").splitlines()]
    starts = Counter(detail for _, point, detail in lines if point == "chunk started")
    return sum(starts.values()) - len(starts)


def unfinished_runs(study: Study) -> list[str]:
    """Runs that Dagster believes to be going on, and pool slots that are taken, when nothing runs any more."""
    with study.active():
        return unfinished_runs_of()


def unfinished_runs_of() -> list[str]:
    """The same of Dagster's instance in `DAGSTER_HOME`."""
    unfinished = [status for status in dg.DagsterRunStatus if status not in _ENDED]
    with dg.DagsterInstance.get() as instance:
        runs = [run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=unfinished))]
        log = instance.event_log_storage
        slots = [pool for pool in log.get_concurrency_keys() if log.get_concurrency_info(pool).active_slot_count]
    return runs + slots


_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True)
class Kills:
    """What it took to bring a sweep to its end."""

    killed: int
    """Processes that died before they were done."""
    again: int
    """Chunks that were begun more than once."""


def sweep_under_fire(study: Study, folder: Path, *, kills: int, seed: int, longest: float) -> Kills:
    """Kill a study's sweep at `kills` random moments within `longest` seconds of its start, then let it end.

    A sweep that ends before its moment comes counts as no kill and ends the trial.
    """
    moments = random.Random(seed)
    log = folder / "points.log"
    killed = 0
    while True:
        running = start_sweep(study, folder, log=log)
        if killed == kills:
            break
        running.process.join(moments.uniform(0, longest))
        running.process.kill()
        running.process.join()
        if running.process.exitcode != KILLED:
            break
        killed += 1
    finished = running.wait()
    assert finished.code == 0, finished.stdout + finished.stderr
    return Kills(killed, generated_again(log))


def start_sweep(study: Study, folder: Path, *, log: Path, fault: str | None = None) -> Command:
    """Start a study's sweep that logs its fault points, and dies at one if it is named."""
    environment = {**study.environment, "BACKTRACKING_FAULT_LOG": str(log)}
    if fault is not None:
        environment["BACKTRACKING_FAULT"] = fault
    return start_backtracking("sweep", str(study.file), environment=environment, folder=folder)


def seconds_of(study: Study, folder: Path) -> float:
    """Wall time of a study's whole sweep, which it leaves done."""
    began = time.monotonic()
    finished = start_sweep(study, folder, log=folder / "points.log").wait()
    assert finished.code == 0, finished.stdout + finished.stderr
    return time.monotonic() - began


def _table(layout: StoreLayout, name: str) -> pa.Table:
    order = ", ".join(f'"{column}"' for column in TABLES[name].key)
    with reading(layout) as connection:
        return _comparable(connection.sql(f'from "{name}" order by {order}').to_arrow_table())


def _comparable(table: pa.Table) -> pa.Table:
    return table.select([name for name in table.column_names if name not in WHERE_AND_WHEN])


def _leftovers(layout: StoreLayout) -> tuple[str, ...]:
    """Temporary files, journals and files set aside: nothing of these stays after a finished sweep."""
    unwanted = [*layout.root.rglob(".*.tmp*"), *layout.journal.rglob("*"), *layout.set_aside.iterdir()]
    return tuple(sorted(str(path.relative_to(layout.root)) for path in unwanted))
