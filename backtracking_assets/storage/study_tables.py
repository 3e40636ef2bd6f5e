"""The transaction that replaces a table which is computed as a whole, such as that of the prompt variants."""

import pyarrow as pa

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.database import DEFAULT_WAIT, writing
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import conform
from backtracking_assets.storage.statements import insert_rows
from backtracking_assets.storage.tables import TABLES


def replace_table(layout: StoreLayout, name: str, rows: pa.Table, *, wait: float = DEFAULT_WAIT) -> None:
    """Replace all rows of a table by those of one computation, or none of them.

    Raises:
        StorageError: there are no rows, or they are of several computations.
    """
    fitting = conform(rows, TABLES[name].schema)
    if fitting.num_rows == 0:
        raise StorageError(f"There are no rows for {name} to store; an empty result is an error.")
    digests = set(fitting["inputs_digest"].to_pylist())
    if len(digests) != 1:
        raise StorageError(f"The rows of {name} come from one computation; they name {len(digests)}.")
    with writing(layout, wait=wait) as connection:
        connection.execute(f'delete from "{name}"')
        insert_rows(connection, name, fitting)
