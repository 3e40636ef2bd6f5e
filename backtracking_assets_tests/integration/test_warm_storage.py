"""Dagster's databases are the same whether a command keeps them open or Dagster opens them each time."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.event_api import AssetRecordsFilter
from dagster._core.events import DagsterEvent, EngineEventData, StepMaterializationData
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log import SqliteEventLogStorage
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import IntegrityError

from backtracking_assets.cli.instance import open_instance
from backtracking_assets.execution.warm_event_log import WarmEventLog
from backtracking_assets.execution.warm_storage import warm
from backtracking_assets_tests.integration.processes import finish, start


@dg.asset
def something(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log.info("said")
    return dg.MaterializeResult(metadata={"n": 1})


def _materialized(instance: dg.DagsterInstance) -> str:
    job = dg.Definitions(assets=[something], jobs=[dg.define_asset_job("all_of_it")]).resolve_job_def("all_of_it")
    return job.execute_in_process(instance=instance).run_id


def _database(run_id: str) -> tuple[list[tuple], list[tuple], str]:
    path = Path(os.environ["DAGSTER_HOME"]) / "history" / "runs" / f"{run_id}.db"
    connection = sqlite3.connect(path)
    try:
        tables = connection.execute("select type, name, sql from sqlite_master order by name").fetchall()
        version = connection.execute("select * from alembic_version").fetchall()
        mode = connection.execute("pragma journal_mode").fetchone()[0]
    finally:
        connection.close()
    return tables, version, mode


def _events(instance: dg.DagsterInstance, run_id: str) -> list[str | None]:
    return [record.event_log_entry.message for record in instance.get_records_for_run(run_id).records]


def _die_after_a_run(told: Path, home: str) -> None:
    # The process is forked from one that was begun by another test, with the environment of that time.
    os.environ["DAGSTER_HOME"] = home
    instance = open_instance()
    told.write_text(_materialized(instance), encoding="utf-8")
    os._exit(9)  # nothing is closed, as when the process is killed


def test_a_runs_database_is_the_one_that_dagster_makes() -> None:
    with open_instance() as instance:
        assert isinstance(instance.event_log_storage, WarmEventLog)
        kept_open = [_materialized(instance) for _ in range(6)]  # more than are held open at once
        said = [_events(instance, run_id) for run_id in kept_open]
    with dg.DagsterInstance.get() as plain:
        of_dagster = _materialized(plain)
        assert [_events(plain, run_id) for run_id in kept_open] == said
        assert len(plain.get_runs()) == 7
        assert len(said[0]) == len(_events(plain, of_dagster))
    wanted = _database(of_dagster)
    assert wanted[2] == "wal"
    assert all(_database(run_id) == wanted for run_id in kept_open)


_SEEN: list[list[str]] = []
"""The kinds of the events that another connection finds while the asset runs."""


@dg.asset(
    partitions_def=dg.StaticPartitionsDefinition(["a", "b"]),
    check_specs=[dg.AssetCheckSpec(name, asset="checked") for name in ("first", "second")],
)
def checked(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    path = Path(os.environ["DAGSTER_HOME"]) / "history" / "runs" / f"{context.run.run_id}.db"
    other = sqlite3.connect(path)
    _SEEN.append([kind for (kind,) in other.execute("select dagster_event_type from event_logs order by id")])
    other.close()
    return dg.MaterializeResult(
        check_results=[dg.AssetCheckResult(passed=True, check_name=n) for n in ("first", "second")]
    )


def _recorded(instance: dg.DagsterInstance, run_id: str) -> list[tuple[str | None, str | None, str | None]]:
    """Kind, step and message of a run's events, and of what checks say they looked at."""
    found = []
    for record in instance.get_records_for_run(run_id).records:
        entry = record.event_log_entry
        message = None if entry.dagster_event is None else entry.dagster_event.message
        kind = None if entry.dagster_event is None else entry.dagster_event.event_type_value
        found.append((kind, entry.step_key, (message or "").replace(run_id, "")))
    return found


def test_events_that_are_stored_together_are_those_that_dagster_stores_one_by_one() -> None:
    job = dg.Definitions(assets=[checked], jobs=[dg.define_asset_job("all_of_it")]).resolve_job_def("all_of_it")
    _SEEN.clear()
    with open_instance() as instance:
        warm_runs = [job.execute_in_process(instance=instance, partition_key=key).run_id for key in ("a", "b")]
    with dg.DagsterInstance.get() as plain:
        of_dagster = job.execute_in_process(instance=plain, partition_key="b").run_id
        known = plain.fetch_materializations(dg.AssetKey("checked"), limit=5).records
        targets = {
            record.event_log_entry.run_id: record.storage_id for record in known if record.event_log_entry is not None
        }
        for run_id in (*warm_runs, of_dagster):
            events = plain.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
            looked_at = [e.event_log_entry.get_dagster_event().asset_check_evaluation_data for e in events]
            assert len(looked_at) == 2
            for evaluation in looked_at:
                assert evaluation.target_materialization_data is not None
                assert evaluation.target_materialization_data.run_id == run_id
                assert evaluation.target_materialization_data.storage_id == targets[run_id]
        kinds = [[event[:2] for event in _recorded(plain, run_id)] for run_id in (*warm_runs, of_dagster)]
        output = ("LOGS_CAPTURED", None)
        assert (
            [e for e in kinds[0] if e != output]
            == [e for e in kinds[2] if e != output]
            == [e for e in kinds[1] if e != output]
        )
    # What a run has done is there to be seen before an asset's own code runs, however long that takes.
    assert all(seen[-1] == "STEP_START" and "PIPELINE_START" in seen for seen in _SEEN)


def test_what_a_process_recorded_is_there_after_it_died(tmp_path: Path) -> None:
    told = tmp_path / "run_id"
    assert finish(start(_die_after_a_run, told, os.environ["DAGSTER_HOME"])) == 9
    run_id = told.read_text(encoding="utf-8")
    with dg.DagsterInstance.get() as plain:
        run = plain.get_run_by_id(run_id)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert "said" in _events(plain, run_id)
        latest = plain.get_latest_materialization_event(dg.AssetKey("something"))
    assert latest is not None
    assert latest.run_id == run_id


_RUN = "a-run"
_MADE = dg.AssetKey("made")
_KINDS = ("PIPELINE_START", "RESOURCE_INIT_STARTED", "RESOURCE_INIT_SUCCESS", "LOGS_CAPTURED", "STEP_START")
"""Kinds of events of which the first four wait for the last; the index has the first."""


def _entry(kind: str, run_id: str = _RUN) -> dg.EventLogEntry:
    data = None
    if kind == "ASSET_MATERIALIZATION":
        data = StepMaterializationData(dg.AssetMaterialization(_MADE, partition="a"))
    elif kind == "ENGINE_EVENT" or kind.startswith("RESOURCE_INIT"):
        data = EngineEventData()
    said = DagsterEvent(kind, job_name="a_job", message=kind, event_specific_data=data)
    return dg.EventLogEntry(
        error_info=None, level=20, user_message="", run_id=run_id, timestamp=1.0, job_name="a_job", dagster_event=said
    )


def _stored(folder: Path, shard: str) -> list[str]:
    """The kinds of the events that a database has, as another connection finds them."""
    connection = sqlite3.connect(folder / f"{shard}.db")
    try:
        return [kind for (kind,) in connection.execute("select dagster_event_type from event_logs order by id")]
    finally:
        connection.close()


def _refuse(folder: Path, shard: str, kind: str) -> None:
    connection = sqlite3.connect(folder / f"{shard}.db")
    connection.execute(
        f"create trigger refused before insert on event_logs when new.dagster_event_type = '{kind}' "
        f"begin select raise(abort, 'no {kind}'); end"
    )
    connection.close()


def _shard(connection: Connection) -> str:
    return Path(connection.engine.url.database or "").stem


@contextmanager
def _at_commits(what: Callable[[str, int], None]) -> Iterator[None]:
    """`what` is called with the name of the database and the number of commits before, from 0, at each commit."""
    shards: list[str] = []

    def committing(connection: Connection) -> None:
        shards.append(_shard(connection))
        what(shards[-1], len(shards) - 1)

    event.listen(Engine, "commit", committing)
    try:
        yield
    finally:
        event.remove(Engine, "commit", committing)


@pytest.mark.parametrize(
    ("shard", "kind"),
    [(_RUN, "PIPELINE_START"), (_RUN, "RESOURCE_INIT_SUCCESS"), (_RUN, "STEP_START"), ("index", "PIPELINE_START")],
)
def test_an_event_that_cannot_be_stored_takes_no_other_with_it(tmp_path: Path, shard: str, kind: str) -> None:
    logs = {name: of(str(tmp_path / name)) for name, of in (("w", WarmEventLog), ("d", SqliteEventLogStorage))}
    for name, log in logs.items():
        log.store_event(_entry("ENGINE_EVENT"))
        _refuse(tmp_path / name, shard, kind)
    for other in _KINDS[:-1]:
        logs["w"].store_event(_entry(other))
    with pytest.raises(IntegrityError, match=f"no {kind}"):
        logs["w"].store_event(_entry(_KINDS[-1]))
    for each in _KINDS:
        try:
            logs["d"].store_event(_entry(each))
        except IntegrityError:
            assert each == kind
    assert _stored(tmp_path / "w", _RUN) == _stored(tmp_path / "d", _RUN)
    assert _stored(tmp_path / "w", "index") == _stored(tmp_path / "d", "index")
    lost = {kind} if shard == _RUN else set()
    assert _stored(tmp_path / "w", _RUN) == ["ENGINE_EVENT", *(each for each in _KINDS if each not in lost)]
    for log in logs.values():
        log.dispose()


def test_events_whose_first_commit_fails_are_stored_one_by_one(tmp_path: Path) -> None:
    def fail(_: str, before: int) -> None:
        if before == 0:
            raise OSError("no space left")

    log = WarmEventLog(str(tmp_path))
    log.store_event(_entry("ENGINE_EVENT"))
    with _at_commits(fail):
        for kind in _KINDS:
            log.store_event(_entry(kind))
    assert _stored(tmp_path, _RUN) == ["ENGINE_EVENT", *_KINDS]
    assert _stored(tmp_path, "index") == ["PIPELINE_START"]
    log.dispose()


def test_a_commit_of_the_index_that_fails_leaves_the_run_with_its_events_once(tmp_path: Path) -> None:
    def fail(shard: str, _: int) -> None:
        if shard == "index":
            raise OSError("no space left")

    log = WarmEventLog(str(tmp_path))
    for kind in _KINDS[:-1]:
        log.store_event(_entry(kind))
    with _at_commits(fail), pytest.raises(OSError, match="no space left"):
        log.store_event(_entry(_KINDS[-1]))
    assert _stored(tmp_path, _RUN) == list(_KINDS)
    assert _stored(tmp_path, "index") == []
    for kind in _KINDS:
        log.store_event(_entry(kind))
    assert _stored(tmp_path, _RUN) == [*_KINDS, *_KINDS]
    assert _stored(tmp_path, "index") == ["PIPELINE_START"]
    log.dispose()


def test_the_index_is_committed_after_every_run_whose_events_it_has(tmp_path: Path) -> None:
    committed: list[str] = []
    log = WarmEventLog(str(tmp_path))
    log.store_event(_entry("ENGINE_EVENT"))
    log.store_event(_entry("ENGINE_EVENT", "another-run"))
    with _at_commits(lambda shard, _: committed.append(shard)):
        log.store_event(_entry("PIPELINE_START"))
        log.store_event(_entry("PIPELINE_START", "another-run"))
        log.store_event(_entry("STEP_START"))
    assert committed == [_RUN, "another-run", "index"]
    log.dispose()


def test_what_could_not_be_committed_is_not_found(tmp_path: Path) -> None:
    def fail(shard: str, _: int) -> None:
        if shard == _RUN:
            raise OSError("no space left")

    log = WarmEventLog(str(tmp_path))
    log.store_event(_entry("ENGINE_EVENT"))
    with _at_commits(fail), pytest.raises(OSError, match="no space left"):
        log.store_event(_entry("ASSET_MATERIALIZATION"))
    assert log.fetch_materializations(AssetRecordsFilter(_MADE, ["a"]), limit=1).records == []
    log.store_event(_entry("ASSET_MATERIALIZATION"))
    assert len(log.fetch_materializations(AssetRecordsFilter(_MADE, ["a"]), limit=1).records) == 1
    log.dispose()


def test_events_whose_storing_is_interrupted_are_stored_with_the_next(tmp_path: Path) -> None:
    def interrupt(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        if _shard(connection) == "index":
            raise KeyboardInterrupt

    log = WarmEventLog(str(tmp_path))
    log.store_event(_entry("ENGINE_EVENT"))
    for kind in _KINDS[:-1]:
        log.store_event(_entry(kind))
    event.listen(Engine, "before_cursor_execute", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            log.get_logs_for_run(_RUN)
    finally:
        event.remove(Engine, "before_cursor_execute", interrupt)
    assert _stored(tmp_path, _RUN) == ["ENGINE_EVENT"]
    log.store_event(_entry(_KINDS[-1]))
    assert _stored(tmp_path, _RUN) == ["ENGINE_EVENT", *_KINDS]
    assert _stored(tmp_path, "index") == ["PIPELINE_START"]
    log.dispose()


def _die_after_a_commit(folder: Path) -> None:
    def die(_: str, before: int) -> None:
        if before == 1:
            os._exit(9)

    log = WarmEventLog(str(folder))
    log.store_event(_entry("ENGINE_EVENT"))
    with _at_commits(die):
        for kind in _KINDS:
            log.store_event(_entry(kind))


def test_a_process_that_dies_between_two_commits_leaves_what_the_run_says_of_itself(tmp_path: Path) -> None:
    assert finish(start(_die_after_a_commit, tmp_path)) == 9
    assert _stored(tmp_path, _RUN) == ["ENGINE_EVENT", *_KINDS]
    assert _stored(tmp_path, "index") == []


def test_another_kind_of_storage_stays(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_url: postgresql://nobody@nowhere/none}}\n"
        "compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}\n",
        encoding="utf-8",
    )
    ref = InstanceRef.from_dir(str(tmp_path))
    assert warm(ref) == ref
