"""Disks that are full or read-only: one sentence, nothing lost, and the same command goes on once there is space."""

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from backtracking_assets.assets.generating import ensure_completions
from backtracking_assets.errors import UnwritableError
from backtracking_assets.models import generation
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries
from backtracking_assets.storage.journal import finished_chunks
from backtracking_assets_tests.integration.disks import fill, mounted, set_read_only
from backtracking_assets_tests.integration.processes import Finished, backtracking
from backtracking_assets_tests.integration.studies import Study, content, make_study

CELL = Cell("both_0", 0.0)
PLAN = [{"layer_subsets": ["attn_1"]}]  # two cells


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> dict[str, pa.Table]:
    """The completions of an uninterrupted sweep, by fingerprint."""
    study = make_study(tmp_path_factory.mktemp("whole") / "study", tiny_checkpoint)
    with study.active():
        opened = study.opened(plan=PLAN)
        for cell in opened.experiment.planned_cells():
            ensure_completions(opened, cell, run_id="whole", log=lambda message: None)
        return completions(study)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", 24) as folder:
        yield folder


@pytest.fixture
def study(tmp_path: Path, tiny_checkpoint: Path) -> Study:
    made = make_study(tmp_path / "study", tiny_checkpoint)
    made.experiment(plan=PLAN)
    return made


def sweep(study: Study, folder: Path, **environment: str) -> Finished:
    return backtracking("sweep", str(study.file), environment={**study.environment, **environment}, folder=folder)


def completions(study: Study) -> dict[str, pa.Table]:
    return {name: content(study.layout, name) for name in queries.completion_counts(study.layout)}


def assert_one_sentence(found: Finished, *parts: str) -> None:
    """The command ended with 2 and, on its last line, a sentence that holds all parts; no traceback anywhere."""
    assert found.code == 2, found
    assert "Traceback" not in found.stdout + found.stderr
    last = found.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert last.endswith(".")
    for part in parts:
        assert part in last


@pytest.mark.parametrize("left", [300_000, pytest.param(1_200_000, marks=pytest.mark.slow)])
def test_a_full_output_disk_loses_nothing(
    study: Study, disk: Path, tmp_path: Path, whole: dict[str, pa.Table], left: int
) -> None:
    """Little space breaks the making of the folders, more of it that of the database."""
    study = on_disk(study, disk)
    ballast = fill(disk, left)
    assert_one_sentence(
        sweep(study, tmp_path), str(disk), "full", "finished chunks and stored cells are safe", "same command again"
    )
    ballast.unlink()
    found = sweep(study, tmp_path)
    assert found.code == 0, found.stderr
    assert completions(study) == whole


def on_disk(study: Study, disk: Path) -> Study:
    """The study with its outputs, and nothing else, on the disk."""
    (study.home / "runs").symlink_to(disk / "runs")
    (disk / "runs").mkdir()
    return study


def test_a_disk_that_fills_up_after_a_chunk_keeps_it(study: Study, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = on_disk(study, disk)
    engine, calls = generation.generate, list[int]()
    ballast: list[Path] = []

    def fill_before_second(model, requests, *arguments, **options):
        made = engine(model, requests, *arguments, **options)
        if calls:
            ballast.append(fill(disk))
        calls.append(len(requests))
        return made

    monkeypatch.setattr(generation, "generate", fill_before_second)
    with study.active():
        opened = study.opened()
        fingerprint = opened.condition(CELL).fingerprint
        with pytest.raises(
            UnwritableError, match=r"is full \(0\.0 of 24\.0 MiB are free\).*finished chunks .* are safe"
        ):
            ensure_completions(opened, CELL, run_id="first", log=lambda message: None)
        ((chunk_id, first),) = finished_chunks(study.layout, fingerprint).items()
        assert [path.name for path in study.layout.journal_of(fingerprint).iterdir()] == [
            f"{chunk_id}.parquet",
            "plan.json",
        ]
        ballast[0].unlink()
        monkeypatch.setattr(generation, "generate", engine)
        made = ensure_completions(study.opened(), CELL, run_id="second", log=lambda message: None)
        stored = queries.completions(study.layout, fingerprint)
    assert calls == [4, 2]
    assert made.n_generated == 2
    runs = stored["run_id"].to_pylist()
    assert (runs.count("first"), runs.count("second")) == (4, 2)
    assert set(first["problem_id"].to_pylist()) <= set(stored["problem_id"].to_pylist())


@pytest.mark.parametrize("left", [0, pytest.param(800_000, marks=pytest.mark.slow)])
def test_a_full_disk_under_dagster_loses_nothing(
    study: Study, disk: Path, tmp_path: Path, whole: dict[str, pa.Table], left: int
) -> None:
    home = disk / "dagster_home"
    ballast = fill(disk, left)
    found = sweep(study, tmp_path, DAGSTER_HOME=str(home))
    assert_one_sentence(found, str(home), "full" if left else "No space left", "are safe", "same command again")
    assert "Dagster" in found.stderr.splitlines()[-1]
    ballast.unlink()
    found = sweep(study, tmp_path, DAGSTER_HOME=str(home))
    assert found.code == 0, found.stderr
    assert completions(study) == whole


def test_a_damaged_database_of_dagster_is_one_sentence(study: Study, tmp_path: Path) -> None:
    assert sweep(study, tmp_path).code == 0
    before = completions(study)
    (runs,) = (study.home / "dagster_home").rglob("runs.db")
    runs.write_bytes(b"no database" * 1000)
    for path in runs.parent.glob("runs.db-*"):
        path.unlink()
    found = sweep(study, tmp_path)
    assert_one_sentence(found, str(study.home / "dagster_home"), "are safe", "DAGSTER_HOME")
    assert completions(study) == before


def test_read_only_outputs_are_refused_and_can_be_read(
    study: Study, disk: Path, tmp_path: Path, whole: dict[str, pa.Table]
) -> None:
    study = on_disk(study, disk)
    assert sweep(study, tmp_path).code == 0
    study.experiment(plan=[*PLAN, {"layer_subsets": ["both_0"], "scales": [0.0]}])
    set_read_only(disk, True)
    try:
        found = sweep(study, tmp_path)
        assert_one_sentence(found, "Read-only file system", "are safe", "BACKTRACKING_HOME")
        assert_one_sentence(
            backtracking("report", str(study.file), environment=study.environment, folder=tmp_path), "Read-only"
        )
        status = backtracking("status", str(study.file), "--json", environment=study.environment, folder=tmp_path)
        assert status.code == 0, status.stderr
        assert json.loads(status.stdout)["counts"] == {"done": 2, "partial": 0, "stale": 0, "missing": 1, "waiting": 0}
        assert completions(study) == whole
    finally:
        set_read_only(disk, False)


def test_a_read_only_store_with_an_unmerged_write_ahead_log_can_be_read(study: Study, disk: Path) -> None:
    study = on_disk(study, disk)
    with study.active():
        ensure_completions(study.opened(), CELL, run_id="first", log=lambda message: None)
    before = completions(study)
    # What a process that was killed after a commit leaves behind.
    database, log = study.layout.database, study.layout.database.with_name("backtracking.duckdb.wal")
    with duckdb.connect(str(database)) as connection:
        connection.execute("set checkpoint_threshold = '1TB'")
        connection.execute("update cells set run_id = 'in the log'")
        files = {path: path.read_bytes() for path in (database, log)}
    for path, data in files.items():
        path.write_bytes(data)
    set_read_only(disk, True)
    try:
        assert completions(study) == before
        assert set(queries.cells(study.layout)["run_id"].to_pylist()) == {"in the log"}
    finally:
        set_read_only(disk, False)


def test_a_journal_that_turns_read_only_half_way_loses_nothing(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, calls = generation.generate, list[int]()
    with mounted(study.layout.journal, 24) as journal, study.active():

        def read_only_after_first(model, requests, *arguments, **options):
            made = engine(model, requests, *arguments, **options)
            if calls:
                set_read_only(journal, True)
            calls.append(len(requests))
            return made

        monkeypatch.setattr(generation, "generate", read_only_after_first)
        with pytest.raises(
            UnwritableError, match=r"is read-only, and .* cannot be written; finished chunks .* are safe"
        ):
            ensure_completions(study.opened(), CELL, run_id="first", log=lambda message: None)
        set_read_only(journal, False)
        monkeypatch.setattr(generation, "generate", engine)
        assert ensure_completions(study.opened(), CELL, run_id="second", log=lambda message: None).n_generated == 2


def test_a_read_only_folder_of_dagster_is_refused_and_status_works(study: Study, disk: Path, tmp_path: Path) -> None:
    home = disk / "dagster_home"
    assert sweep(study, tmp_path, DAGSTER_HOME=str(home)).code == 0
    study.experiment(plan=[*PLAN, {"layer_subsets": ["both_0"], "scales": [0.0]}])
    set_read_only(disk, True)
    try:
        assert_one_sentence(
            sweep(study, tmp_path, DAGSTER_HOME=str(home)), str(home), "Read-only", "are safe", "DAGSTER_HOME"
        )
        environment = {**study.environment, "DAGSTER_HOME": str(home)}
        status = backtracking("status", str(study.file), "--json", environment=environment, folder=tmp_path)
        assert status.code == 0, status.stderr
    finally:
        set_read_only(disk, False)
