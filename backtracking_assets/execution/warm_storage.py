"""Dagster's instance for a process that executes many runs: connections stay open, and output is not captured.

Dagster opens a SQLite database anew for each of the 200 times that a cell's run reads or writes one, and makes the
tables of each run's database by its migrations. Files and tables are the same here: whatever else opens them sees no
difference. To capture what a run prints, it starts four processes; what a command prints stands in the terminal.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection

from backtracking_assets.execution.sqlite_engines import lasting_engine
from backtracking_assets.execution.warm_event_log import WarmEventLog


class WarmSqliteStorage(DagsterSqliteStorage):
    """Dagster's SQLite storage for a process that executes many runs."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        # Made by Dagster above, with its tables; taken over here with the places that it chose.
        self._event_log_storage = WarmEventLog(self._event_log_storage._base_dir)
        self._run_storage = _WarmRuns(self._run_storage._conn_string)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> "WarmSqliteStorage":
        return cls(inst_data=inst_data, **config_value)


def warm(ref: InstanceRef) -> InstanceRef:
    """The reference to an instance with SQLite kept open and output not captured; settings of other kinds stay."""
    storage, output = ref.storage_data, ref.compute_logs_data
    if storage is not None and storage.class_name == DagsterSqliteStorage.__name__:
        storage = storage._replace(module_name=__name__, class_name=WarmSqliteStorage.__name__)
    if output.class_name == LocalComputeLogManager.__name__:
        output = ConfigurableClassData(NoOpComputeLogManager.__module__, NoOpComputeLogManager.__name__, "{}")
    return ref._replace(storage_data=storage, compute_logs_data=output)


class _WarmRuns(SqliteRunStorage):
    def __init__(self, conn_string: str) -> None:
        self._engine = lasting_engine(conn_string)
        self._has_stats = False
        self._snapshots: set[str] = set()
        super().__init__(conn_string)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            yield connection

    # Columns are only ever added and snapshots only ever kept: what was found once is not looked up again.

    def has_run_stats_index_cols(self) -> bool:
        self._has_stats = self._has_stats or super().has_run_stats_index_cols()
        return self._has_stats

    def has_execution_plan_snapshot(self, execution_plan_snapshot_id: str) -> bool:
        return self._has_snapshot_id(execution_plan_snapshot_id)

    def _has_snapshot_id(self, snapshot_id: str) -> bool:
        if snapshot_id not in self._snapshots and super()._has_snapshot_id(snapshot_id):
            self._snapshots.add(snapshot_id)
        return snapshot_id in self._snapshots

    def wipe(self) -> None:
        super().wipe()
        self._snapshots.clear()

    def dispose(self) -> None:
        self._engine.dispose()
