"""The archive: one checksummed Parquet file with every completion of a condition, and the condition itself.

It is what travels between machines, and the database can be made again from it.
"""

from itertools import pairwise

import pyarrow as pa
from pydantic import ValidationError

from backtracking_assets.conditions import Condition
from backtracking_assets.errors import StorageError
from backtracking_assets.records import COMPLETIONS
from backtracking_assets.storage.durable import remove_stale_temporaries
from backtracking_assets.storage.journal import finished_chunks
from backtracking_assets.storage.layout import StoreLayout, is_fingerprint
from backtracking_assets.storage.parquet import (
    DamagedFileError,
    read_columns,
    read_facts,
    read_parquet,
    write_parquet,
)
from backtracking_assets.storage.rows import Key, keys_of
from backtracking_assets.storage.set_aside import set_aside

CONTENT_COLUMNS = (
    "prompt_sha256",
    "text",
    "token_ids",
    "token_starts",
    "n_prompt_tokens",
    "n_tokens",
    "finish_reason",
    "n_firings",
)
"""Columns that the condition and the prompt decide; the others say when, where and by which run a row was made."""


def compact(layout: StoreLayout, condition: Condition) -> int:
    """Put a condition's finished chunks and its archive into one archive sorted by key; how many completions it holds.

    The journal stays: clear it when the database has committed. A damaged archive is set aside first. The caller
    holds the generation lock.

    Raises:
        StorageError: there is nothing to archive, a completion exists twice with different content, or the file
            cannot be written.
    """
    fingerprint = condition.fingerprint
    remove_stale_temporaries(layout.archive)
    tables = list(finished_chunks(layout, fingerprint).values())
    present = verified_archive(layout, fingerprint)
    if present is not None:
        tables.insert(0, present)
    if not tables:
        raise StorageError(f"Condition {fingerprint[:12]} has no finished completion to archive.")
    merged = _merge(fingerprint, pa.concat_tables(tables))
    if present is None or merged.num_rows != present.num_rows:
        write_archive(layout, condition, merged)
    return merged.num_rows


def write_archive(layout: StoreLayout, condition: Condition, completions: pa.Table) -> None:
    """Put completions, sorted by key, in the place of a condition's archive. The caller holds the generation lock.

    Raises:
        StorageError: the file cannot be written.
    """
    facts = {**_archive_facts(condition.fingerprint), "condition": condition.canonical_json()}
    write_parquet(completions, layout.archive_of(condition.fingerprint), facts)


def verified_archive(layout: StoreLayout, fingerprint: str) -> pa.Table | None:
    """The archived completions, every byte checked; None where there is no archive, or it was damaged and is now set
    aside. For the process that holds the generation lock.
    """
    try:
        return read_archive(layout, fingerprint)
    except DamagedFileError as damage:
        if not damage.path.exists():
            return None
        set_aside(layout, damage.path, damage.reason)
        return None


def read_archive(layout: StoreLayout, fingerprint: str) -> pa.Table:
    """All archived completions of a condition, sorted by problem_id and sample_id.

    Raises:
        DamagedFileError: there is no archive, or it is damaged.
    """
    path = layout.archive_of(fingerprint)
    table = read_parquet(path, schema=COMPLETIONS, expected=_archive_facts(fingerprint))
    if table.num_rows and table.column("fingerprint").unique().to_pylist() != [fingerprint]:
        raise DamagedFileError(path, "its rows belong to another condition")
    keys = keys_of(table)
    if any(first >= second for first, second in pairwise(keys)):
        raise DamagedFileError(path, "its rows are not sorted, or one stands twice")
    return table


def archived_keys(layout: StoreLayout, fingerprint: str) -> set[Key]:
    """Keys of the archived completions, read without the other columns; empty where there is no archive.

    Raises:
        DamagedFileError: the file is torn or of another condition. Damage in other columns goes unnoticed here.
    """
    path = layout.archive_of(fingerprint)
    if not path.exists():
        return set()
    columns = ("problem_id", "sample_id")
    return set(keys_of(read_columns(path, columns, schema=COMPLETIONS, expected=_archive_facts(fingerprint))))


def archived_fingerprints(layout: StoreLayout) -> list[str]:
    """Fingerprints of the conditions that have an archive, sorted."""
    return sorted(path.stem for path in layout.archive.glob("*.parquet") if is_fingerprint(path.stem))


def archived_condition(layout: StoreLayout, fingerprint: str) -> Condition:
    """The condition as its archive states it.

    Raises:
        DamagedFileError: there is no archive, or what it states is not the condition of this fingerprint.
    """
    path = layout.archive_of(fingerprint)
    facts = read_facts(path, expected=_archive_facts(fingerprint))
    try:
        condition = Condition.model_validate_json(facts.get("condition", ""))
    except ValidationError as error:
        raise DamagedFileError(path, "the condition in its metadata cannot be read") from error
    if condition.fingerprint != fingerprint:
        raise DamagedFileError(path, "the condition in its metadata has another fingerprint")
    return condition


def _archive_facts(fingerprint: str) -> dict[str, str]:
    return {"kind": "archive", "fingerprint": fingerprint}


def _merge(fingerprint: str, table: pa.Table) -> pa.Table:
    """One row a key, sorted by key; of rows with the same content the first stays, and different content is refused."""
    rows: dict[Key, int] = {}
    content = table.select(list(CONTENT_COLUMNS))
    for row, key in enumerate(keys_of(table)):
        first = rows.setdefault(key, row)
        if first != row and not content.slice(first, 1).equals(content.slice(row, 1)):
            raise StorageError(
                f"Condition {fingerprint[:12]} has two different completions of problem {key[0]}, sample {key[1]} "
                f"(chunks {table['chunk_id'][first]} and {table['chunk_id'][row]}); nothing was overwritten. "
                f"Move the archive or the journal of this condition away, and run the same command again."
            )
    return table.take([rows[key] for key in sorted(rows)])
