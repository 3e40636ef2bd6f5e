"""The transaction that replaces tables which one computation gives together: all of them, or none."""

from collections.abc import Callable, Mapping, Sequence

import duckdb
import pyarrow as pa

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.database import DEFAULT_WAIT, writing
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import conform
from backtracking_assets.storage.statements import insert_rows
from backtracking_assets.storage.tables import TABLES


def replace_tables(
    layout: StoreLayout,
    what: str,
    tables: Mapping[str, pa.Table],
    *,
    one: Sequence[str],
    check: Callable[[duckdb.DuckDBPyConnection], None] = lambda connection: None,
    wait: float = DEFAULT_WAIT,
) -> None:
    """Replace all rows of the named tables.

    Args:
        what: what they are the tables of, as messages call it.
        one: the columns that have one value in all rows of all tables.
        check: looks at the database within the transaction, and raises if they must not be stored.

    Raises:
        StorageError: a table is empty, or they are not of one computation.
    """
    fitting = {name: conform(table, TABLES[name].schema) for name, table in tables.items()}
    for name, table in fitting.items():
        if table.num_rows == 0:
            raise StorageError(f"There are no rows for {name} to store; an empty result is an error.")
    for column in one:
        values = {value for table in fitting.values() for value in table.column(column).unique().to_pylist()}
        if len(values) != 1:
            raise StorageError(f"The tables of {what} have one {column}; {len(values)} were given.")
    with writing(layout, wait=wait) as connection:
        check(connection)
        for name, table in fitting.items():
            connection.execute(f'delete from "{name}"')
            insert_rows(connection, name, table)


def replace_table(layout: StoreLayout, name: str, rows: pa.Table, *, wait: float = DEFAULT_WAIT) -> None:
    """Replace a table of phase 1's results, such as that of the prompt variants.

    Raises:
        StorageError: see `replace_tables`.
    """
    replace_tables(layout, name, {name: rows}, one=["inputs_digest"], wait=wait)
