"""The transactions that write phase 1's scan: the logit lens, the components' effects, the selection; each whole."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass

import duckdb
import pyarrow as pa

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.database import DEFAULT_WAIT
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.replacing import replace_tables
from backtracking_assets.storage.statements import count


@dataclass(frozen=True)
class ScannedFrom:
    """The row of the prompt variant whose completions were looked at."""

    variant: str
    fingerprint: str
    problem_set_digest: str
    n_samples: int
    rules_digest: str


def write_lens(
    layout: StoreLayout, source: ScannedFrom, positions: pa.Table, summaries: pa.Table, *, wait: float = DEFAULT_WAIT
) -> None:
    """Replace the logit lens.

    Raises:
        StorageError: a table is empty, they are not of one computation, or the variant is another by now.
    """
    _replace(layout, source, {"lens_positions": positions, "lens_summaries": summaries}, wait)


def write_scan(
    layout: StoreLayout,
    source: ScannedFrom,
    positions: pa.Table,
    effects: pa.Table,
    summaries: pa.Table,
    *,
    wait: float = DEFAULT_WAIT,
) -> None:
    """Replace the component scan.

    Raises:
        StorageError: a table is empty, they are not of one computation, or the variant is another by now.
    """
    tables = {"scan_positions": positions, "component_effects": effects, "component_summaries": summaries}
    _replace(layout, source, tables, wait)


def write_selection(
    layout: StoreLayout, source: ScannedFrom, selection: pa.Table, *, wait: float = DEFAULT_WAIT
) -> None:
    """Replace the selected components.

    Raises:
        StorageError: the table is empty, not of one computation, or the variant is another by now.
    """
    _replace(layout, source, {"selected_components": selection}, wait)


def _replace(layout: StoreLayout, source: ScannedFrom, tables: Mapping[str, pa.Table], wait: float) -> None:
    def refuse_outdated(connection: duckdb.DuckDBPyConnection) -> None:
        unchanged = count(
            connection,
            """
            select count(*) from variants
            where variant = ? and fingerprint = ? and problem_set_digest = ? and n_samples = ? and rules_digest = ?
            """,
            [*astuple(source)],
        )
        if not unchanged:
            raise StorageError(
                f"Prompt variant {source.variant} has changed since its events were looked at; run the same command "
                "again."
            )

    replace_tables(layout, "a scan", tables, one=["scan_digest"], check=refuse_outdated, wait=wait)
