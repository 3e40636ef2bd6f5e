"""`backtracking status` names every reason at once, quickly, and works where nothing can be written."""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from backtracking_assets.analysis import detection, statistics_settings
from backtracking_assets.assets import open_experiment
from backtracking_assets.assets.status import CellStatus, planned_status
from backtracking_assets.cli.instance import open_instance
from backtracking_assets.conditions import Condition
from backtracking_assets.errors import StorageError
from backtracking_assets.records import Cell
from backtracking_assets.storage.database import reading
from backtracking_assets.storage.overview import overview
from backtracking_assets_tests.integration.processes import finish, start
from backtracking_assets_tests.integration.studies import Study, make_study, run_cell
from backtracking_assets_tests.tiny import make_checkpoint

CELL = Cell("both_0", 0.0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Study:
    """A study with one finished cell."""
    study = make_study(tmp_path_factory.mktemp("study"), tiny_checkpoint)
    with study.active(), open_instance() as instance:
        assert run_cell(instance, study.experiment(), CELL).success
    return study


@pytest.fixture(autouse=True)
def study(measured: Study) -> Iterator[Study]:
    problems = measured.problems.read_bytes()
    with measured.active():
        yield measured
    measured.problems.write_bytes(problems)
    measured.experiment()


def status_of(study: Study, cell: Cell = CELL, **changes: Any) -> CellStatus:
    return next(status for status in planned_status(study.opened(**changes)) if status.cell == cell)


@pytest.mark.parametrize(
    ("changes", "reason", "then"),
    [
        ({}, "", ""),
        ({"sampling": {"temperature": 0.5}}, "sampling: temperature 1.0 → 0.5", "generates 6"),
        ({"prompting": {"variants": {"plain": "{question}"}}}, "prompt: text of the variant", "generates 6"),
        ({"model": {"dtype": "bfloat16"}}, "checkpoint: dtype float32 → bfloat16", "generates 6"),
        ({"problems": {"samples": 3}}, "samples: 2 → 3 a problem", "generates 3, keeps 6"),
        ({"problems": {"samples": 1}}, "samples: 2 → 1 a problem", "links and reads anew"),
        ({"problems": {"count": 2}}, "problems: 1 removed", "links and reads anew"),
        ({"detection": {"answer_marker": "A:"}}, "detection: answer marker 'Final:' → 'A:'", "reads anew"),
        ({"statistics": {"seed": 4}}, "statistics: seed 0 → 4", "measures anew"),
        (
            {"sampling": {"seed": 1}, "detection": {"relaxed": []}, "statistics": {"confidence": 0.9}},
            "sampling: seed 7 → 1; detection: relaxed triggers -mistake; statistics: confidence 0.95 → 0.9",
            "generates 6",
        ),
    ],
)
def test_every_reason_is_named_and_what_is_done_about_it(
    study: Study, changes: dict[str, Any], reason: str, then: str
) -> None:
    status = status_of(study, **changes)
    assert (status.reason, status.next) == (reason, then)
    assert status.state == ("stale" if reason else "done")


def test_other_weights_are_named(study: Study, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", seed=5)
    assert status_of(study, model={"path": str(other)}).reason == "checkpoint: other weights"


def test_other_code_is_named_as_such(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, read = statistics_settings.METRICS_VERSION, detection.DETECTION_VERSION
    monkeypatch.setattr(statistics_settings, "METRICS_VERSION", "99")
    changed = f"code version: metrics {measured} → 99"
    assert (status_of(study).reason, status_of(study).next) == (changed, "measures anew")
    monkeypatch.setattr(detection, "DETECTION_VERSION", "98")
    assert status_of(study).reason == f"code version: detection {read} → 98; {changed}"
    assert status_of(study).next == "reads anew"
    newer = functools.partial(Condition, generator_version="7")
    monkeypatch.setattr(open_experiment, "Condition", newer)
    assert status_of(study).reason.startswith("code version: generator 1 → 7; code version: detection")
    assert status_of(study).next == "generates 6"


def test_changed_problems_are_told_apart(study: Study) -> None:
    text = study.problems.read_text(encoding="utf-8")
    asked = next(iter(study.opened().problems))
    number = asked.removeprefix("p")
    study.problems.write_text(text.replace(f'"{2 * int(number)}"', '"77"'), encoding="utf-8")
    answer = status_of(study)
    assert (answer.reason, answer.next) == ("problems: 1 with another answer", "links and reads anew")
    study.problems.write_text(text.replace(f"{number} + {number}", f"twice {number}"), encoding="utf-8")
    question = status_of(study)
    assert question.reason == "problems: 1 with another text"
    assert question.next == "refuses: a problem with another text needs another id"


def test_a_condition_is_generated_once_for_all_cells_that_share_it(study: Study) -> None:
    first, second = status_of(study, Cell("attn_1", 1.0)), status_of(study, Cell("both_0", 1.0))
    assert (first.state, first.next) == ("missing", "generates 6")
    assert (second.state, second.next) == ("missing", "links what attn_1 at 1 generates")


def test_completions_that_are_archived_only_are_counted(study: Study) -> None:
    aside = study.layout.database.rename(study.home / "aside.duckdb")
    try:
        status = status_of(study)
        assert (status.n_completions, status.next) == (6, "links and reads them")
    finally:
        aside.rename(study.layout.database)


_STATUS = """
import sys
from backtracking_assets.cli.status import show_status
from rich.console import Console
show_status(sys.argv[1], True, Console())
loaded = {"torch", "dagster", "matplotlib"} & set(sys.modules)
assert not loaded, loaded
"""


def _status_in_a_new_interpreter(study: Study, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-c", _STATUS, str(study.file)]
    environment = {**os.environ, **study.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_status_loads_neither_torch_nor_dagster(study: Study) -> None:
    found = _status_in_a_new_interpreter(study)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["counts"]["done"] == 1


def test_the_status_reads_a_store_that_cannot_be_written(study: Study) -> None:
    root = study.layout.root
    mounted = f'mount --bind "{root}" "{root}" && mount -o remount,ro,bind "{root}" && exec "$@"'
    prefix = ("unshare", "-m", "sh", "-c", mounted, "sh")
    trial = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if trial.returncode:
        pytest.skip(f"no file system can be mounted here: {trial.stderr.strip()}")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    found = _status_in_a_new_interpreter(study, prefix)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["counts"]["done"] == 1
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def _hold(database: str, ready: str, release: str) -> None:
    with duckdb.connect(database) as connection:
        connection.execute("select 1")
        Path(ready).touch()
        while not Path(release).exists():
            time.sleep(0.02)


def test_a_database_that_is_held_is_waited_for_and_its_holder_named(study: Study, tmp_path: Path) -> None:
    ready, release = tmp_path / "ready", tmp_path / "release"
    holder = start(_hold, str(study.layout.database), str(ready), str(release))
    while not ready.exists():
        assert holder.is_alive()
        time.sleep(0.02)
    try:
        with pytest.raises(StorageError, match=f"is held by process {holder.pid} .* longer than the 0.2 s"):
            overview(study.layout, ["p0"], 1, wait=0.2)
    finally:
        release.touch()
        finish(holder)
    with reading(study.layout) as connection:
        assert connection.execute("select count(*) from cells").fetchone() == (1,)
