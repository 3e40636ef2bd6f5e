"""Dagster's databases are the same whether a command keeps them open or Dagster opens them each time."""

import os
import sqlite3
from pathlib import Path

import dagster as dg
from dagster._core.instance.ref import InstanceRef

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


def test_another_kind_of_storage_stays(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_url: postgresql://nobody@nowhere/none}}\n"
        "compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}\n",
        encoding="utf-8",
    )
    ref = InstanceRef.from_dir(str(tmp_path))
    assert warm(ref) == ref
