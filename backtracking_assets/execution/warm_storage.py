"""Dagster's instance for a process that executes many runs: connections stay open, and output is not captured.

Dagster opens a SQLite database anew for each of the 200 times that a cell's run reads or writes one, and makes the
tables of each run's database by its migrations. Files and tables are the same here: whatever else opens them sees no
difference. To capture what a run prints, it starts four processes; what a command prints stands in the terminal.
"""

import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine, event

_BUSY_SECONDS = 30
"""Seconds that a statement waits for another process's transaction; as Dagster has it for its event log."""
_MOST_OPEN = 4
"""Databases that are open at once: the index, that of the run at work, and a few before it."""


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


class WarmEventLog(SqliteEventLogStorage):
    def __init__(self, base_dir: str) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._empty: bytes | None = None
        """A run's database before its first event."""
        self._tables: set[str] = set()
        super().__init__(base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock, self._engine(shard).begin() as connection:
            yield connection

    def _engine(self, shard: str) -> Engine:
        """Under the lock of the storage."""
        if shard in self._engines:
            self._engines.move_to_end(shard)
            return self._engines[shard]
        while len(self._engines) >= _MOST_OPEN:
            self._engines.popitem(last=False)[1].dispose()
        engine = _opened(self.conn_string_for_shard(shard))
        if shard not in self._initialized_dbs:
            if not self._made_from_empty(Path(self.path_for_shard(shard))):
                self._initdb(engine)
            self._initialized_dbs.add(shard)
        self._engines[shard] = engine
        return engine

    def _made_from_empty(self, path: Path) -> bool:
        """Whether the database of a new run was made, without migrations. One that another process made is left."""
        if path.exists():
            return False
        if self._empty is None:
            self._empty = self._empty_database()
        temporary = path.with_suffix(f".{os.getpid()}.new")
        try:
            temporary.write_bytes(self._empty)
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _empty_database(self) -> bytes:
        with tempfile.TemporaryDirectory(prefix="backtracking-dagster-") as folder:
            path = Path(folder) / "empty.db"
            engine = create_engine(f"sqlite:///{path}")
            self._initdb(engine)
            engine.dispose()  # the last connection takes its log into the file
            return path.read_bytes()

    def has_table(self, table_name: str) -> bool:
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def dispose(self) -> None:
        super().dispose()
        with self._db_lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines.clear()


class _WarmRuns(SqliteRunStorage):
    def __init__(self, conn_string: str) -> None:
        self._engine = _opened(conn_string)
        super().__init__(conn_string)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        self._engine.dispose()


def _opened(conn_string: str) -> Engine:
    engine = create_engine(conn_string, connect_args={"timeout": _BUSY_SECONDS})
    event.listen(engine, "connect", _flush_seldom)
    return engine


def _flush_seldom(connection: Any, _: Any) -> None:
    # A process that dies loses nothing by it. A machine that does may lose the last events, never the database; what
    # they said is recorded again from the store when a command starts.
    connection.execute("pragma synchronous = normal")
