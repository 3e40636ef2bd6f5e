"""Dagster's event log for a process that executes many runs: databases stay open, and events are stored together.

Dagster stores every event by a transaction of its own, one with several of them where assets and checks are concerned.
Many events come right before the next one: those wait for it, and all go into one transaction a database. They are
stored before anything is read, and before an asset's own code runs. What cannot be stored together is stored one by
one, as Dagster would. A process that dies within those milliseconds loses the events that wait; one that dies between
two commits loses what the index says of them. What they said is recorded again from the store when a command starts.
"""

import os
import tempfile
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dagster import AssetKey
from dagster._core.event_api import AssetRecordsFilter, EventLogCursor, EventLogRecord, EventRecordsResult
from dagster._core.events import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from sqlalchemy import Connection, Engine, create_engine

from backtracking_assets.execution.sqlite_engines import lasting_engine

_MOST_OPEN = 4
"""Databases that are open at once: the index, that of the run at work, and a few before it."""

_FOLLOWED = frozenset(
    {
        DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
        DagsterEventType.RUN_START,
        DagsterEventType.RESOURCE_INIT_STARTED,
        DagsterEventType.RESOURCE_INIT_SUCCESS,
        DagsterEventType.LOGS_CAPTURED,
        DagsterEventType.STEP_OUTPUT,
        DagsterEventType.ASSET_CHECK_EVALUATION,
        DagsterEventType.STEP_SUCCESS,
    }
)
"""Events after which a run goes on to its next one without running an asset's own code."""

_OF_CHECKS = frozenset({DagsterEventType.STEP_OUTPUT, DagsterEventType.ASSET_CHECK_EVALUATION})


class WarmEventLog(SqliteEventLogStorage):
    def __init__(self, base_dir: str) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._empty: bytes | None = None
        """A run's database before its first event."""
        self._tables: set[str] = set()
        self._columns: set[str] = set()
        self._indexes: set[str] = set()
        self._waiting: list[EventLogEntry] = []
        self._together: tuple[ExitStack, dict[str, Connection]] | None = None
        """What closes the connections by which events are stored together, and these by database, while they are."""
        self._materialized: tuple[AssetRecordsFilter, EventLogRecord] | None = None
        """What asks for what a run has just materialized, and that itself, while its checks are stored."""
        super().__init__(base_dir)
        self._db_lock = threading.RLock()  # events are stored before something is read, under the same lock

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            if self._together is not None:
                closing, connections = self._together
                if shard not in connections:
                    connections[shard] = closing.enter_context(self._engine(shard).connect())
                    connections[shard].begin()
                yield connections[shard]
                return
            self._store_waiting()
            with self._engine(shard).begin() as connection:
                yield connection

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event now, or with those that follow it.

        The error of an event that could not be stored comes out here, or where the log is next read or closed, after
        the other events have been stored.
        """
        kind = event.dagster_event_type
        with self._db_lock:
            if kind not in _OF_CHECKS:
                self._materialized = None
            self._waiting.append(event)
            if kind not in _FOLLOWED:
                self._store_waiting()

    def _store_waiting(self) -> None:
        """Under the lock of the storage."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        committing, committed = False, []
        try:
            with ExitStack() as closing:  # takes back what is not committed
                connections: dict[str, Connection] = {}
                self._together = closing, connections
                for event in waiting:
                    super().store_event(event)
                committing = True
                # A run has what the index says of it, whatever ends the process between two commits.
                for shard in sorted(connections, key=lambda shard: shard == INDEX_SHARD_NAME):
                    connections[shard].commit()
                    committed.append(shard)
        except Exception:
            self._together = self._materialized = None
            if committed:  # stored again, the events would be twice in what is committed
                raise
            self._store_one_by_one(waiting)
        except BaseException:
            self._materialized = None
            if not committing:
                self._waiting = waiting
            raise
        finally:
            self._together = None

    def _store_one_by_one(self, events: list[EventLogEntry]) -> None:
        """As Dagster does; the first error is raised after the last event."""
        left, failures = deque(events), []
        try:
            while left:
                try:
                    super().store_event(left.popleft())
                except Exception as failure:
                    failures.append(failure)
        finally:
            self._materialized = None
            self._waiting.extend(left)  # none, unless the process was interrupted
        for other in failures[1:]:
            failures[0].add_note(f"Another event could not be stored either: {other!r}")
        if failures:
            raise failures[0]

    def _store_asset_event(self, conn: Connection, event: EventLogEntry, event_id: int) -> None:
        super()._store_asset_event(conn, event, event_id)
        made = event.get_dagster_event()
        # What is recorded outside of runs has no checks in a run; of assets without partitions Dagster asks otherwise.
        if event.run_id == RUNLESS_RUN_ID or made.asset_key is None or made.partition is None:
            return
        if event.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION:
            self._materialized = AssetRecordsFilter(made.asset_key, [made.partition]), EventLogRecord(event_id, event)

    def fetch_materializations(
        self,
        records_filter: AssetKey | AssetRecordsFilter,
        limit: int,
        cursor: str | None = None,
        ascending: bool = False,
    ) -> EventRecordsResult:
        """As Dagster does; each check of a step asks what the step has just materialized, which is known."""
        if self._materialized is not None and limit == 1 and cursor is None and not ascending:
            asking, found = self._materialized
            if records_filter == asking:
                place = EventLogCursor.from_storage_id(found.storage_id).to_string()
                return EventRecordsResult([found], cursor=place, has_more=True)
        return super().fetch_materializations(records_filter, limit, cursor, ascending)

    def _engine(self, shard: str) -> Engine:
        """Under the lock of the storage."""
        if shard in self._engines:
            self._engines.move_to_end(shard)
            return self._engines[shard]
        while len(self._engines) >= _MOST_OPEN:
            self._engines.popitem(last=False)[1].dispose()
        engine = lasting_engine(self.conn_string_for_shard(shard))
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

    # Columns and indexes are only ever added: what was found once is not looked up again.

    def has_asset_key_col(self, column_name: str) -> bool:
        return column_name in self._columns or super().has_asset_key_col(column_name)

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        if column_name not in self._columns and super()._has_asset_key_col_on_connection(conn, column_name):
            self._columns.add(column_name)
        return column_name in self._columns

    def has_secondary_index(self, name: str) -> bool:
        if name not in self._indexes and super().has_secondary_index(name):
            self._indexes.add(name)
        return name in self._indexes

    def dispose(self) -> None:
        super().dispose()
        with self._db_lock:
            try:
                self._store_waiting()
            finally:
                for engine in self._engines.values():
                    engine.dispose()
                self._engines.clear()
