"""The transaction that writes the continuation ablation: its three tables together, or none of them."""

import duckdb
import pyarrow as pa

from backtracking_assets.errors import StorageError
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.records import CONTINUATION_SUMMARIES
from backtracking_assets.storage.database import DEFAULT_WAIT
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.replacing import replace_tables
from backtracking_assets.storage.rows import conform
from backtracking_assets.storage.statements import CONTINUATION_TABLES, count


def write_continuation(
    layout: StoreLayout, positions: pa.Table, samples: pa.Table, summaries: pa.Table, *, wait: float = DEFAULT_WAIT
) -> None:
    """Replace the continuation ablation.

    Raises:
        StorageError: a table is empty, the three are not of one computation, or no cell at scale 1.0 is what they were
            computed from any more.
    """
    tables: dict[str, pa.Table] = dict(zip(CONTINUATION_TABLES, (positions, samples, summaries), strict=True))

    def refuse_outdated(connection: duckdb.DuckDBPyConnection) -> None:
        connection.register("incoming", conform(summaries, CONTINUATION_SUMMARIES))
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

    what, one = "a continuation ablation", ["fingerprint", "continuation_digest"]
    replace_tables(layout, what, tables, one=one, check=refuse_outdated, wait=wait)
