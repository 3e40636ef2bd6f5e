"""Parquet files that know whether they are what they claim to be.

The file's schema metadata holds the caller's facts (which condition, which chunk) and a sha256 over these facts and
the table's content. It is computed over values, so it covers everything that a reader gets; Parquet's own page
checksums are on besides, so that damaged pages are found before they are decoded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.checksum import content_sha256
from backtracking_assets.storage.durable import write_durably
from backtracking_assets.storage.rows import conform

_PREFIX = "backtracking."
_CHECKSUM = "sha256"


class DamagedFileError(StorageError):
    """A file of the store is torn, empty, altered, or belongs to something else."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be used: {reason}.")
        self.path = path
        self.reason = reason


def write_parquet(table: pa.Table, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the table durably, with the metadata and a checksum. The same table and metadata give the same bytes.

    Raises:
        StorageError: the file cannot be written.
        ValueError: the metadata names the checksum's own key.
    """
    if _CHECKSUM in metadata:
        raise ValueError(f"the metadata key {_CHECKSUM!r} is kept for the checksum")
    facts = {**metadata, _CHECKSUM: content_sha256(table, metadata)}
    # One chunk: row groups and pages then depend on the rows alone, and not on how they were put together.
    marked = table.combine_chunks().replace_schema_metadata({_PREFIX + key: facts[key] for key in sorted(facts)})
    # No column statistics: the checksum does not cover them, and files of a few MB are read whole.
    write_durably(
        path,
        lambda temporary: pq.write_table(
            marked, temporary, compression="zstd", write_statistics=False, write_page_checksum=True
        ),
    )


def read_parquet(path: Path, *, schema: pa.Schema, expected: Mapping[str, str]) -> pa.Table:
    """The table of a file that `write_parquet` wrote, with its metadata gone.

    Raises:
        DamagedFileError: the file is missing, empty, torn, of another schema, was written with other facts than
            `expected`, or its content differs from its checksum.
    """
    file = _open(path)
    facts = _facts(path, file, expected)
    table = _read(path, file, schema.names, schema)
    stated = facts.pop(_CHECKSUM, None)
    if stated != content_sha256(table, facts):
        raise DamagedFileError(path, "its checksum does not fit its content" if stated else "it has no checksum")
    return table


def read_columns(path: Path, columns: Sequence[str], *, schema: pa.Schema, expected: Mapping[str, str]) -> pa.Table:
    """Some columns of a file, checked by metadata and page checksums only: cheap, where a miscount does no harm.

    Raises:
        DamagedFileError: the file is missing, empty, torn, of another schema or another condition.
    """
    file = _open(path)
    _facts(path, file, expected)
    return _read(path, file, columns, schema)


def read_facts(path: Path, *, expected: Mapping[str, str]) -> dict[str, str]:
    """The metadata that `write_parquet` was given.

    Raises:
        DamagedFileError: the file is missing, empty, torn or of another condition.
    """
    facts = _facts(path, _open(path), expected)
    facts.pop(_CHECKSUM, None)
    return facts


def _open(path: Path) -> pq.ParquetFile:
    try:
        if path.stat().st_size == 0:
            raise DamagedFileError(path, "it is empty")
        return pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise DamagedFileError(path, "it does not exist") from error
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError(path, f"it is torn or is no Parquet file ({_first_line(error)})") from error


def _facts(path: Path, file: pq.ParquetFile, expected: Mapping[str, str]) -> dict[str, str]:
    try:
        raw = file.schema_arrow.metadata or {}
        facts = {key.decode(): value.decode() for key, value in raw.items()}
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DamagedFileError(path, f"its metadata is damaged ({_first_line(error)})") from error
    facts = {key.removeprefix(_PREFIX): value for key, value in facts.items() if key.startswith(_PREFIX)}
    for key, value in expected.items():
        if facts.get(key) != value:
            found = facts.get(key)
            raise DamagedFileError(path, f"its {key} is {found or 'not stated'} where {value} was expected")
    return facts


def _read(path: Path, file: pq.ParquetFile, columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    found = file.schema_arrow.remove_metadata()
    if not found.equals(schema.remove_metadata()):
        raise DamagedFileError(path, "its columns are not those of the expected schema")
    try:
        table = file.read(columns=list(columns))
        return conform(table, pa.schema([schema.field(name) for name in columns]))
    except (pa.ArrowException, OSError, StorageError) as error:
        raise DamagedFileError(path, f"its content cannot be decoded ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
