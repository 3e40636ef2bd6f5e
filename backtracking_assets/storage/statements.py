"""Statements that several transactions share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from backtracking_assets.records import Cell, Subject, Variant
from backtracking_assets.storage.rows import table_of
from backtracking_assets.storage.tables import TABLES


@dataclass(frozen=True)
class Links:
    """The tables of what points to conditions, and the columns that name it there."""

    table: str
    metrics: str
    checks: str
    key: tuple[str, ...]

    @property
    def where(self) -> str:
        """A test for one subject, with a parameter for each of `key_of`."""
        return " and ".join(f"{column} = ?" for column in self.key)


CELL_LINKS = Links("cells", "metrics", "checks", ("layer_subset", "scale"))
VARIANT_LINKS = Links("variants", "variant_metrics", "variant_checks", ("variant",))


def links_of(subject: Subject) -> Links:
    """The tables that hold a subject."""
    return VARIANT_LINKS if isinstance(subject, Variant) else CELL_LINKS


def key_of(subject: Subject) -> list[str | float]:
    """The values of the columns that name a subject."""
    return [subject.name] if isinstance(subject, Variant) else [subject.layer_subset, subject.scale]


def links_in(table: pa.Table) -> Links:
    """The tables that hold the subjects of some rows."""
    return VARIANT_LINKS if "variant" in table.column_names else CELL_LINKS


def subject_of(values: Sequence[Any]) -> Subject:
    """The subject that the values of `key_of` name."""
    return Variant(*values) if len(values) == len(VARIANT_LINKS.key) else Cell(*values)


def subjects_in(table: pa.Table) -> list[Subject]:
    """The subjects of some rows, each once, sorted."""
    columns = (table.column(name).to_pylist() for name in links_in(table).key)
    return [subject_of(values) for values in sorted(set(zip(*columns, strict=True)))]


def named(subject: Subject) -> str:
    """A subject at the beginning of a sentence."""
    return f"Prompt {subject}" if isinstance(subject, Variant) else f"Cell {subject}"


def insert_rows(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    """Insert an Arrow table into a table with the same column names."""
    connection.register("incoming", rows)
    connection.execute(f'insert into "{name}" by name select * from incoming')
    connection.unregister("incoming")


def put_row(connection: duckdb.DuckDBPyConnection, name: str, row: Mapping[str, Any]) -> None:
    """Have a row in a table whose key is one column, in the place of one with the same key.

    One that stands there as it is costs a look and no writing.
    """
    (key,) = TABLES[name].key
    wanted = f'from "{name}" where "{key}" = ?'
    if connection.execute(f"select {', '.join(row)} {wanted}", [row[key]]).fetchall() == [tuple(row.values())]:
        return
    connection.execute(f"delete {wanted}", [row[key]])
    insert_rows(connection, name, table_of([row], TABLES[name].schema))


def count(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[object] = ()) -> int:
    """The one number that a query gives."""
    return int(connection.execute(sql, list(parameters)).fetchall()[0][0])


def delete_cell_rows(
    connection: duckdb.DuckDBPyConnection, name: str, cell: Subject, *, assets: Sequence[str] | None = None
) -> None:
    """Delete a cell's or variant's rows of a table; of a table with the column `asset`, only those of `assets`."""
    sql, parameters = f'delete from "{name}" where {links_of(cell).where}', list[object](key_of(cell))
    if assets is not None:
        sql, parameters = f"{sql} and list_contains(?, asset)", [*parameters, list(assets)]
    connection.execute(sql, parameters)


def remove_results(
    connection: duckdb.DuckDBPyConnection, subject: Subject, *, keep_generation_checks: bool = False
) -> None:
    """Delete what was computed from a cell's or variant's completions, or only what was computed from its detections.

    What is measured of phase 1 as a whole carries the digest of the variants that it was computed from, and stays.
    """
    links = links_of(subject)
    later = ("detections", "metrics", "variant_detections", "variant_metrics")
    delete_cell_rows(connection, links.metrics, subject)
    delete_cell_rows(connection, links.checks, subject, assets=later if keep_generation_checks else None)
    if isinstance(subject, Cell):
        delete_cell_rows(connection, "comparisons", subject)
        _remove_continuation_of(connection, subject)


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
