"""Parquet files that know whether they are what they claim to be.

The file's schema metadata holds the caller's facts (which condition, which chunk) and a sha256 over these facts and
the table's content. It is computed over values, so it covers everything that a reader gets; Parquet's own page
checksums are on besides, so that damaged pages are found before they are decoded.

The metadata states the format as well. A release that adds a column raises it and goes on reading the older formats:
their checksum is over the columns that they have, and the added ones are NULL.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.checksum import content_sha256
from backtracking_assets.storage.durable import Kind, write_durably
from backtracking_assets.storage.rows import conform

FORMAT = 2
"""Raised with every change of a schema whose files are kept."""

_ADDED: dict[int, tuple[str, ...]] = {2: ("batch_rows",)}
"""Nullable columns by the format that added them, to whichever schema has them."""

_PREFIX = "backtracking."
_CHECKSUM = "sha256"
_FORMAT = "format"
_FIRST_FORMAT = "1"  # its files do not state it
# What pyarrow raises on bytes that are not what they were: its own errors, and plain ones where names do not decode.
_UNREADABLE = (pa.ArrowException, OSError, ValueError)


class DamagedFileError(StorageError):
    """A file of the store is torn, empty, altered, or belongs to something else."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be used: {reason}.")
        self.path = path
        self.reason = reason


def write_parquet(table: pa.Table, path: Path, metadata: Mapping[str, str], kind: Kind | None = None) -> None:
    """Write the table durably, with the metadata and a checksum. The same table and metadata give the same bytes.

    Raises:
        StorageError: the file cannot be written.
        ValueError: the metadata names a key that is kept for the checksum or the format.
    """
    if kept := {_CHECKSUM, _FORMAT}.intersection(metadata):
        raise ValueError(f"the metadata key {min(kept)!r} is kept for what every file states")
    facts = {**metadata, _FORMAT: str(FORMAT)}
    facts[_CHECKSUM] = content_sha256(table, facts)
    # One chunk: row groups and pages then depend on the rows alone, and not on how they were put together.
    marked = table.combine_chunks().replace_schema_metadata({_PREFIX + key: facts[key] for key in sorted(facts)})
    # No column statistics: the checksum does not cover them, and files of a few MB are read whole.
    write_durably(
        path,
        lambda temporary: pq.write_table(
            marked, temporary, compression="zstd", write_statistics=False, write_page_checksum=True
        ),
        kind,
    )


def read_parquet(path: Path, *, schema: pa.Schema, expected: Mapping[str, str]) -> pa.Table:
    """The table of a file that `write_parquet` wrote, with its metadata gone.

    Raises:
        DamagedFileError: the file is missing, empty, torn, of another schema, was written with other facts than
            `expected`, or its content differs from its checksum.
        StorageError: the file may not be read, or a newer release wrote it.
    """
    with _opened(path) as file:
        facts = _facts(path, file, expected)
        written = _schema_of(facts, schema)
        table = _read(path, file, written.names, written)
    stated = facts.pop(_CHECKSUM, None)
    if stated != content_sha256(table, facts):
        raise DamagedFileError(path, "its checksum does not fit its content" if stated else "it has no checksum")
    return _widened(table, schema)


def read_columns(path: Path, columns: Sequence[str], *, schema: pa.Schema, expected: Mapping[str, str]) -> pa.Table:
    """Some columns of a file, checked by metadata and page checksums only: cheap, where a miscount does no harm.

    Raises:
        DamagedFileError: the file is missing, empty, torn, of another schema or another condition.
        StorageError: the file may not be read, or a newer release wrote it.
    """
    with _opened(path) as file:
        written = _schema_of(_facts(path, file, expected), schema)
        table = _read(path, file, [name for name in columns if name in written.names], written)
    return _widened(table, pa.schema([schema.field(name) for name in columns]))


def read_facts(path: Path, *, expected: Mapping[str, str]) -> dict[str, str]:
    """The metadata that `write_parquet` was given.

    Raises:
        DamagedFileError: the file is missing, empty, torn or of another condition.
        StorageError: the file may not be read, or a newer release wrote it.
    """
    with _opened(path) as file:
        facts = _facts(path, file, expected)
    return {key: value for key, value in facts.items() if key not in (_CHECKSUM, _FORMAT)}


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        handle = path.open("rb")
    except FileNotFoundError as error:
        raise DamagedFileError(path, "it does not exist") from error
    except OSError as error:
        # No permission, or too many open files: the file itself may be whole, and must not be set aside.
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
    with handle:
        if os.fstat(handle.fileno()).st_size == 0:
            raise DamagedFileError(path, "it is empty")
        try:
            file = pq.ParquetFile(handle, page_checksum_verification=True)
        except _UNREADABLE as error:
            raise DamagedFileError(path, f"it is torn or is no Parquet file ({_first_line(error)})") from error
        with file:
            yield file


def _facts(path: Path, file: pq.ParquetFile, expected: Mapping[str, str]) -> dict[str, str]:
    try:
        raw = file.schema_arrow.metadata or {}
        facts = {key.decode(): value.decode() for key, value in raw.items()}
    except _UNREADABLE as error:
        raise DamagedFileError(path, f"its metadata is damaged ({_first_line(error)})") from error
    facts = {key.removeprefix(_PREFIX): value for key, value in facts.items() if key.startswith(_PREFIX)}
    _check_format(path, file, facts)
    for key, value in expected.items():
        if facts.get(key) != value:
            found = facts.get(key)
            raise DamagedFileError(path, f"its {key} is {found or 'not stated'} where {value} was expected")
    return facts


def _check_format(path: Path, file: pq.ParquetFile, facts: Mapping[str, str]) -> None:
    stated = facts.get(_FORMAT, _FIRST_FORMAT)
    if not (stated.isascii() and stated.isdecimal() and 1 <= int(stated) <= FORMAT):
        if stated.isdecimal() and _is_whole(file, facts):
            # Not to be set aside: the release that wrote it reads it.
            raise StorageError(
                f"{path} has format {stated}, and this release reads formats up to {FORMAT}; it was left as it is: "
                "update backtracking_assets."
            )
        raise DamagedFileError(path, f"its format is {stated!r}, which is none")


def _is_whole(file: pq.ParquetFile, facts: Mapping[str, str]) -> bool:
    """Whether the checksum fits all columns that a file has, whichever they are."""
    try:
        return facts.get(_CHECKSUM) == content_sha256(file.read(), {k: v for k, v in facts.items() if k != _CHECKSUM})
    except (*_UNREADABLE, TypeError):
        return False


def _schema_of(facts: Mapping[str, str], schema: pa.Schema) -> pa.Schema:
    """The schema as files of this format have it."""
    written = int(facts.get(_FORMAT, _FIRST_FORMAT))
    added = {name for version, names in _ADDED.items() if version > written for name in names}
    return pa.schema([field for field in schema if field.name not in added])


def _widened(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns that it is too old to have, all NULL."""
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return conform(table, schema)


def _read(path: Path, file: pq.ParquetFile, columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    try:
        if not file.schema_arrow.remove_metadata().equals(schema.remove_metadata()):
            raise DamagedFileError(path, "its columns are not those of the expected schema")
        table = file.read(columns=list(columns))
        return conform(table, pa.schema([schema.field(name) for name in columns]))
    except DamagedFileError:
        raise
    except (*_UNREADABLE, StorageError) as error:
        raise DamagedFileError(path, f"its content cannot be decoded ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
