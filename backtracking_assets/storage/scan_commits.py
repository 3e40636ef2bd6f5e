"""The transactions that write phase 1's scan: the logit lens, the components' effects, the selection; each whole."""

from collections.abc import Mapping

import pyarrow as pa

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.database import DEFAULT_WAIT, writing
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import conform
from backtracking_assets.storage.statements import insert_rows
from backtracking_assets.storage.tables import TABLES


def write_lens(layout: StoreLayout, positions: pa.Table, summaries: pa.Table, *, wait: float = DEFAULT_WAIT) -> None:
    """Replace the logit lens.

    Raises:
        StorageError: a table is empty, or they are not of one computation.
    """
    _replace(layout, {"lens_positions": positions, "lens_summaries": summaries}, wait)


def write_scan(
    layout: StoreLayout, positions: pa.Table, effects: pa.Table, summaries: pa.Table, *, wait: float = DEFAULT_WAIT
) -> None:
    """Replace the component scan.

    Raises:
        StorageError: a table is empty, or they are not of one computation.
    """
    tables = {"scan_positions": positions, "component_effects": effects, "component_summaries": summaries}
    _replace(layout, tables, wait)


def write_selection(layout: StoreLayout, selection: pa.Table, *, wait: float = DEFAULT_WAIT) -> None:
    """Replace the selected components.

    Raises:
        StorageError: the table is empty, or not of one computation.
    """
    _replace(layout, {"selected_components": selection}, wait)


def _replace(layout: StoreLayout, tables: Mapping[str, pa.Table], wait: float) -> None:
    fitting = {name: conform(table, TABLES[name].schema) for name, table in tables.items()}
    for name, table in fitting.items():
        if table.num_rows == 0:
            raise StorageError(f"There are no rows for {name} to store; an empty result is an error.")
    digests = {value for table in fitting.values() for value in table.column("scan_digest").unique().to_pylist()}
    if len(digests) != 1:
        raise StorageError(f"The tables of a scan have one scan_digest; {len(digests)} were given.")
    with writing(layout, wait=wait) as connection:
        for name, table in fitting.items():
            connection.execute(f'delete from "{name}"')
            insert_rows(connection, name, table)
