"""A digest of what a table says, independent of how memory or a file lays it out."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def content_sha256(table: pa.Table, metadata: Mapping[str, str]) -> str:
    """Hexadecimal sha256 over the metadata and, for each column, its name, type, NULLs, lengths and values.

    Chunking, slicing, compression and whatever bytes lie under a NULL do not enter, so the digest of a table equals
    that of the same table read back from a file, whichever release of Arrow wrote it. Any other change of a name, a
    type, a value or the order of rows changes the digest.

    Raises:
        TypeError: a column has a type that no table of this project has.
    """
    running = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    running.update(table.num_rows.to_bytes(8, "little"))
    for name in table.column_names:
        column = table.column(name)
        running.update(f"\0{name}\0{_type_name(column.type)}\0".encode())
        _feed(running, column)
    return running.hexdigest()


def _feed(running: Any, column: pa.ChunkedArray) -> None:
    running.update(_bytes(column.is_null(), "u1"))
    kind = column.type
    if pa.types.is_list(kind):
        running.update(_bytes(pc.fill_null(pc.call_function("list_value_length", [column]), 0), "<i8"))
        _feed(running, pa.chunked_array([chunk.flatten() for chunk in column.chunks], type=kind.value_type))
    elif pa.types.is_string(kind):
        texts = [text.encode() for text in pc.fill_null(column, "").to_pylist()]
        running.update(np.array([len(text) for text in texts], "<i8").tobytes())
        running.update(b"".join(texts))
    elif pa.types.is_floating(kind):
        running.update(_bytes(pc.fill_null(column, 0.0), "<f8"))
    elif pa.types.is_boolean(kind):
        running.update(_bytes(pc.fill_null(column, False), "u1"))
    elif pa.types.is_integer(kind):
        running.update(_bytes(pc.fill_null(column, 0), "<i8"))
    elif pa.types.is_timestamp(kind):
        running.update(_bytes(pc.fill_null(column.cast(pa.int64()), 0), "<i8"))
    else:
        raise TypeError(f"no digest is defined for columns of type {kind}")


def _bytes(column: pa.ChunkedArray, layout: str) -> bytes:
    return column.to_numpy().astype(layout).tobytes()


def _type_name(kind: pa.DataType) -> str:
    # Parquet and Arrow name the values of a list `element` or `item`; the name says nothing.
    return f"list<{_type_name(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)
