"""Statements that several transactions share."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from backtracking_assets.records import Cell


def insert_rows(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    """Insert an Arrow table into a table with the same column names."""
    connection.register("incoming", rows)
    connection.execute(f'insert into "{name}" by name select * from incoming')
    connection.unregister("incoming")


def count(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[object] = ()) -> int:
    """The one number that a query gives."""
    return int(connection.execute(sql, list(parameters)).fetchall()[0][0])


def delete_cell_rows(
    connection: duckdb.DuckDBPyConnection, name: str, cell: Cell, *, assets: Sequence[str] | None = None
) -> None:
    """Delete a cell's rows of a table; of a table with the column `asset`, only those of `assets` where given."""
    sql, parameters = f'delete from "{name}" where layer_subset = ? and scale = ?', [cell.layer_subset, cell.scale]
    if assets is not None:
        sql, parameters = f"{sql} and list_contains(?, asset)", [*parameters, list(assets)]
    connection.execute(sql, parameters)


def remove_results(connection: duckdb.DuckDBPyConnection, cell: Cell, *, keep_generation_checks: bool = False) -> None:
    """Delete what was computed from a cell's completions, or only what was computed from its detections."""
    delete_cell_rows(connection, "metrics", cell)
    delete_cell_rows(connection, "comparisons", cell)
    delete_cell_rows(connection, "checks", cell, assets=["detections", "metrics"] if keep_generation_checks else None)
    _remove_continuation_of(connection, cell)


CONTINUATION_TABLES = ("continuation_positions", "continuation_samples", "continuation_summaries")


def _remove_continuation_of(connection: duckdb.DuckDBPyConnection, cell: Cell) -> None:
    """Delete the continuation ablation if it was computed from what the cell's row points to now."""
    computed_from = count(
        connection,
        """
        select count(*) from cells
        semi join continuation_summaries using (fingerprint, problem_set_digest, rules_digest)
        where cells.layer_subset = ? and cells.scale = ?
        """,
        [cell.layer_subset, cell.scale],
    )
    for name in CONTINUATION_TABLES if computed_from else ():
        connection.execute(f'delete from "{name}"')
