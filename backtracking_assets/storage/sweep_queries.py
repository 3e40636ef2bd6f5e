"""Reads over the conditions of a whole sweep: a few queries for all of them, and only the columns that are counted in.

Opening the database for each condition costs more than reading it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from backtracking_assets.records import DETECTIONS
from backtracking_assets.storage.database import DEFAULT_WAIT, reading
from backtracking_assets.storage.layout import StoreLayout

_CONDITIONS_AT_ONCE = 256
"""Bounds the memory: 128,000 completions of 500 each, about 30 MB without text and tokens."""

_OF_COMPLETIONS = ("fingerprint", "problem_id", "sample_id", "n_tokens", "finish_reason")
_OF_DETECTIONS = tuple(field.name for field in DETECTIONS if not pa.types.is_list(field.type))

GENERATED = (
    "fingerprint",
    "chunk_id",
    "device",
    "run_id",
    "batch_rows",
    "n_completions",
    "n_tokens",
    "chunk_seconds",
    "generated_from",
    "generated_until",
)
"""Columns of `generated`."""


@dataclass(frozen=True)
class Wanted:
    """Which completions of a condition belong to the sweep."""

    problem_set_digest: str
    n_samples: int


def counted(
    layout: StoreLayout,
    fingerprints: Sequence[str],
    rules_digest: str,
    wanted: Wanted,
    *,
    wait: float = DEFAULT_WAIT,
) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    """Completions and detections of each condition, in the order given and without their lists and texts.

    Rows of a condition come in no order; a condition without any has empty tables.
    """
    distinct = list(dict.fromkeys(fingerprints))
    for begin in range(0, len(distinct), _CONDITIONS_AT_ONCE):
        part = distinct[begin : begin + _CONDITIONS_AT_ONCE]
        with reading(layout, wait=wait) as connection:
            asked = [part, wanted.problem_set_digest, wanted.n_samples]
            completions = connection.sql(_select("completions", _OF_COMPLETIONS), params=asked).to_arrow_table()
            detections = connection.sql(
                f"{_select('detections', _OF_DETECTIONS)} and rules_digest = ?", params=[*asked, rules_digest]
            ).to_arrow_table()
        yield from zip(part, _by_condition(completions, part), _by_condition(detections, part), strict=True)


def _select(table: str, columns: Sequence[str]) -> str:
    return f"""
        select {", ".join(columns)} from {table}
        where fingerprint in (select unnest(?))
            and problem_id in (select problem_id from problem_sets where problem_set_digest = ?) and sample_id < ?
    """


def _by_condition(table: pa.Table, fingerprints: Sequence[str]) -> Iterator[pa.Table]:
    number = pc.index_in(table["fingerprint"], value_set=pa.array(fingerprints, pa.string()))
    order = pc.sort_indices(number)
    grouped = table.take(order).combine_chunks()
    counts = {row["values"]: row["counts"] for row in number.value_counts().to_pylist()}
    begin = 0
    for place in range(len(fingerprints)):
        n_rows = counts.get(place, 0)
        yield grouped.slice(begin, n_rows)
        begin += n_rows


def generated(
    layout: StoreLayout, fingerprints: Sequence[str], wanted: Wanted, *, wait: float = DEFAULT_WAIT
) -> pa.Table:
    """How the completions of these conditions were made: a row for each chunk, device, run and size of batch.

    Returns:
        A table with the columns `GENERATED`; ``chunk_seconds`` is the wall time of the chunk, whichever rows of it
        these are.
    """
    sql = """
        select fingerprint, chunk_id, device, run_id, batch_rows, count(*) as n_completions,
            sum(n_tokens)::bigint as n_tokens, max(chunk_seconds) as chunk_seconds,
            min(generated_at) as generated_from, max(generated_at) as generated_until
        from completions
        where fingerprint in (select unnest(?))
            and problem_id in (select problem_id from problem_sets where problem_set_digest = ?) and sample_id < ?
        group by all order by all
    """
    asked = [list(dict.fromkeys(fingerprints)), wanted.problem_set_digest, wanted.n_samples]
    with reading(layout, wait=wait) as connection:
        return connection.sql(sql, params=asked).to_arrow_table()
