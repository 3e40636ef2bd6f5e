"""The transaction that writes the continuation ablation: its three tables together, or none of them."""

from collections.abc import Sequence

import pyarrow as pa

from backtracking_assets.errors import StorageError
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.storage.database import DEFAULT_WAIT, writing
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import conform
from backtracking_assets.storage.statements import CONTINUATION_TABLES, count, insert_rows
from backtracking_assets.storage.tables import TABLES


def write_continuation(
    layout: StoreLayout, positions: pa.Table, samples: pa.Table, summaries: pa.Table, *, wait: float = DEFAULT_WAIT
) -> None:
    """Replace the continuation ablation.

    Raises:
        StorageError: a table is empty, the three are not of one computation, or no cell at scale 1.0 is what they were
            computed from any more.
    """
    given: Sequence[pa.Table] = (positions, samples, summaries)
    fitting = {
        name: conform(table, TABLES[name].schema) for name, table in zip(CONTINUATION_TABLES, given, strict=True)
    }
    for name, table in fitting.items():
        if table.num_rows == 0:
            raise StorageError(f"There are no rows for {name} to store; an empty result is an error.")
    for column in ("fingerprint", "continuation_digest"):
        values = {value for table in fitting.values() for value in table.column(column).to_pylist()}
        if len(values) != 1:
            raise StorageError(f"The tables of a continuation ablation have one {column}; {len(values)} were given.")
    with writing(layout, wait=wait) as connection:
        connection.register("incoming", fitting["continuation_summaries"])
        outdated = count(
            connection,
            """
            select count(*) from incoming
            anti join (select * from cells where scale = ?) using (fingerprint, problem_set_digest, rules_digest)
            """,
            [BASELINE_SCALE],
        )
        connection.unregister("incoming")
        if outdated:
            raise StorageError(
                "The baseline has changed since its continuation ablation was computed; run the same command again."
            )
        for name, table in fitting.items():
            connection.execute(f'delete from "{name}"')
            insert_rows(connection, name, table)
