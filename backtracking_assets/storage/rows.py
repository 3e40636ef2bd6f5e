"""Making tables that fit a schema from records, with text that Arrow and DuckDB accept."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from backtracking_assets.errors import StorageError

Key = tuple[str, int]
"""(problem_id, sample_id): which completion of a condition."""

_SURROGATES = re.compile("[\ud800-\udfff]")


def valid_text(text: str) -> str:
    """The text with every surrogate code point replaced by U+FFFD; all other characters, NUL included, stay.

    A surrogate in a Python string has no UTF-8 form, and Arrow and DuckDB refuse it. One character replaces one, so
    that character offsets into the text (`token_starts`) stay true.
    """
    return _SURROGATES.sub("\ufffd", text)


def table_of(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """The rows as a table of exactly this schema; text is made valid, token ids are kept as they are.

    Raises:
        StorageError: a row lacks a column, has one too many, or holds a value that does not fit.
    """
    wanted = set(schema.names)
    cleaned: list[dict[str, Any]] = []
    for row in rows:
        if set(row) != wanted:
            raise StorageError(f"A row does not fit its table: {_name_difference(set(row), wanted)}.")
        cleaned.append({name: valid_text(value) if isinstance(value, str) else value for name, value in row.items()})
    try:
        table = pa.Table.from_pylist(cleaned, schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise StorageError(f"A row does not fit its table: {error}.") from error
    return conform(table, schema)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the schema's columns, order and types, without metadata.

    Raises:
        StorageError: a column is missing or unknown, a value does not fit its type or is NaN, or a NULL stands
            where none may.
    """
    if set(table.column_names) != set(schema.names) or len(table.column_names) != len(schema.names):
        difference = _name_difference(set(table.column_names), set(schema.names))
        raise StorageError(f"A table does not fit its schema: {difference}.")
    try:
        fitting = table.select(schema.names).cast(schema.remove_metadata())
        fitting.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise StorageError(f"A table does not fit its schema: {error}.") from error
    for name in (field.name for field in schema if pa.types.is_floating(field.type)):
        # What could not be measured is NULL. A NaN is a computation that went wrong, and it would sort above all rates.
        is_nan = pc.call_function("is_nan", [fitting.column(name)])  # `to_numpy` would import pandas
        if pc.call_function("any", [is_nan]).as_py():
            raise StorageError(f"A table does not fit its schema: column {name} holds a NaN.")
    return fitting


def keys_of(table: pa.Table) -> list[Key]:
    """(problem_id, sample_id) of every row, in order."""
    return list(zip(table.column("problem_id").to_pylist(), table.column("sample_id").to_pylist(), strict=True))


def _name_difference(given: set[str], wanted: set[str]) -> str:
    parts = []
    if missing := sorted(wanted - given):
        parts.append(f"column {', '.join(missing)} is missing")
    if unknown := sorted(given - wanted):
        parts.append(f"column {', '.join(unknown)} is unknown")
    return " and ".join(parts) or "a column is given twice"
