"""The transaction that writes the positive control: both of its tables, or none."""

import pyarrow as pa

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.database import DEFAULT_WAIT, writing
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import conform
from backtracking_assets.storage.statements import insert_rows
from backtracking_assets.storage.tables import TABLES


def write_positive_control(
    layout: StoreLayout, components: pa.Table, figures: pa.Table, *, wait: float = DEFAULT_WAIT
) -> None:
    """Replace the positive control.

    Raises:
        StorageError: a table is empty, or the two are not of one computation.
    """
    given = {"positive_control_components": components, "positive_control_figures": figures}
    fitting = {name: conform(table, TABLES[name].schema) for name, table in given.items()}
    for name, table in fitting.items():
        if table.num_rows == 0:
            raise StorageError(f"There are no rows for {name} to store; an empty result is an error.")
    digests = {value for table in fitting.values() for value in table.column("control_digest").to_pylist()}
    if len(digests) != 1:
        raise StorageError(f"The tables of a positive control have one control_digest; {len(digests)} were given.")
    with writing(layout, wait=wait) as connection:
        for name, table in fitting.items():
            connection.execute(f'delete from "{name}"')
            insert_rows(connection, name, table)
