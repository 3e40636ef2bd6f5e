"""Engines of Dagster's SQLite databases whose connection stays open."""

from typing import Any

from sqlalchemy import Engine, create_engine, event

_BUSY_SECONDS = 30
"""Seconds that a statement waits for another process's transaction; as Dagster has it for its event log."""


def lasting_engine(conn_string: str) -> Engine:
    """The engine of a database, whose connection stays open until the engine is disposed of."""
    engine = create_engine(conn_string, connect_args={"timeout": _BUSY_SECONDS})
    event.listen(engine, "connect", _flush_seldom)
    event.listen(engine, "checkin", _roll_back)
    return engine


def _flush_seldom(connection: Any, _: Any) -> None:
    # A process that dies loses nothing by it. A machine that does may lose the last events, never the database; what
    # they said is recorded again from the store when a command starts.
    connection.execute("pragma synchronous = normal")


def _roll_back(connection: Any, _: Any) -> None:
    # SQLAlchemy leaves a transaction open whose commit failed; the next one would go on in it and commit both. Dagster
    # closes the connection, which takes it back.
    if connection is not None and connection.in_transaction:
        connection.rollback()
