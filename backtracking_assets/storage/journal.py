"""The journal: the plan of a condition's chunks, and every finished chunk in a file of its own.

The plan is written before the first chunk and never recut, so that a resumed run batches the same completions together
as an uninterrupted one: kernels may give other last bits for other batches. All functions that write or set files
aside expect that the caller holds the condition's generation lock.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from backtracking_assets.conditions import canonical_json, digest
from backtracking_assets.errors import StorageError
from backtracking_assets.fault_points import reached
from backtracking_assets.records import COMPLETIONS
from backtracking_assets.storage.chunks import Chunk, chunk_of, cut
from backtracking_assets.storage.durable import make_folder, remove_stale_temporaries, write_text_durably
from backtracking_assets.storage.layout import PROGRESS_SUFFIX, StoreLayout, is_fingerprint
from backtracking_assets.storage.parquet import DamagedFileError, read_parquet, write_parquet
from backtracking_assets.storage.rows import Key, conform, keys_of
from backtracking_assets.storage.set_aside import set_aside

_PLAN_FORMAT = 1


def plan_chunks(
    layout: StoreLayout, fingerprint: str, wanted: Sequence[Key], present: Collection[Key], size: int
) -> list[Chunk]:
    """The chunks that hold a wanted completion that is not present, in the order of the plan.

    Keys that are wanted and neither present nor planned are cut into chunks that are appended to the plan; planned
    chunks keep their composition, whatever `size` is now. A plan that cannot be read is set aside and made anew, in
    which chunks that are already finished stay as they are. Chunks that are finished are among those returned: leave
    out those that `finished_chunks` names.

    Raises:
        StorageError: the journal cannot be written.
        ValueError: see `chunks.cut`.
    """
    folder = layout.journal_of(fingerprint)
    make_folder(folder)
    remove_stale_temporaries(folder)
    known = set(present)
    missing = [key for key in wanted if key not in known]
    planned = _usable_plan(layout, fingerprint)
    if planned is None:
        planned = _plan_around_finished(layout, fingerprint, missing, size)
        appended = planned
    else:
        covered = {key for chunk in planned for key in chunk.keys}
        appended = cut(fingerprint, [key for key in missing if key not in covered], size)
        planned = planned + appended
    if appended:
        write_plan(layout, fingerprint, planned)
    open_keys = set(missing)
    return [chunk for chunk in planned if open_keys.intersection(chunk.keys)]


def finish_chunk(layout: StoreLayout, fingerprint: str, chunk: Chunk, completions: pa.Table) -> Path:
    """Make a chunk's completions durable, in the order of its keys; the file.

    Raises:
        StorageError: the rows are not exactly the chunk's completions of this condition, or cannot be written.
    """
    table = conform(completions, COMPLETIONS)
    rows = {key: row for row, key in enumerate(keys_of(table))}
    if table.num_rows != len(chunk.keys) or set(rows) != set(chunk.keys):
        raise StorageError(f"Chunk {chunk.chunk_id} was given other completions than it is made of; nothing is kept.")
    for column, value in (("fingerprint", fingerprint), ("chunk_id", chunk.chunk_id)):
        if table.column(column).unique().to_pylist() != [value]:
            raise StorageError(f"Chunk {chunk.chunk_id} was given rows with another {column}; nothing is kept.")
    path = layout.chunk_file(fingerprint, chunk.chunk_id)
    make_folder(path.parent)
    facts = _chunk_facts(fingerprint, chunk.chunk_id)
    write_parquet(table.take([rows[key] for key in chunk.keys]), path, facts, "chunk")
    # Only now: a chunk that breaks off here is taken up where it was.
    layout.progress_file(fingerprint, chunk.chunk_id).unlink(missing_ok=True)
    return path


def finished_chunks(layout: StoreLayout, fingerprint: str) -> dict[str, pa.Table]:
    """Completions of every intact chunk by chunk id, sorted by id; bad files are set aside and thereby missing.

    Raises:
        StorageError: a bad file cannot be set aside.
    """
    tables: dict[str, pa.Table] = {}
    for path in sorted(layout.journal_of(fingerprint).glob("*.parquet")):
        try:
            tables[path.stem] = read_chunk(path, fingerprint)
        except DamagedFileError as damage:
            set_aside(layout, path, damage.reason)
    return tables


def journal_progress(layout: StoreLayout, fingerprint: str) -> tuple[int, int]:
    """Completions in chunk files and completions planned, without opening the files; (0, 0) where no plan is.

    Raises:
        DamagedFileError: the plan cannot be read.
    """
    planned = read_plan(layout.plan_of(fingerprint), fingerprint) or []
    finished = [chunk for chunk in planned if layout.chunk_file(fingerprint, chunk.chunk_id).exists()]
    return sum(len(chunk.keys) for chunk in finished), sum(len(chunk.keys) for chunk in planned)


def finished_keys(layout: StoreLayout, fingerprint: str) -> set[Key]:
    """Keys of the completions in chunk files, by the plan, without opening the files; empty where no plan is.

    Raises:
        DamagedFileError: the plan cannot be read.
    """
    planned = read_plan(layout.plan_of(fingerprint), fingerprint) or []
    return {key for c in planned if layout.chunk_file(fingerprint, c.chunk_id).exists() for key in c.keys}


def journaled_fingerprints(layout: StoreLayout) -> list[str]:
    """Fingerprints of the conditions that have a journal, sorted."""
    return sorted(path.name for path in layout.journal.glob("*") if is_fingerprint(path.name))


def clear_journal(layout: StoreLayout, fingerprint: str) -> None:
    """Remove a condition's chunks and plan. Call it after the archive is written and the database has committed."""
    folder = layout.journal_of(fingerprint)
    # The plan goes last: without it, chunks that an interruption leaves would be planned around.
    files = (path for pattern in (f"*{PROGRESS_SUFFIX}", "*.parquet") for path in sorted(folder.glob(pattern)))
    for path in (*files, layout.plan_of(fingerprint)):
        path.unlink(missing_ok=True)
        reached("journal half cleared", path.name)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def read_chunk(path: Path, fingerprint: str) -> pa.Table:
    """Completions of one chunk file, in the order of its keys.

    Raises:
        DamagedFileError: it is missing, torn, or of another chunk or condition.
    """
    table = read_parquet(path, schema=COMPLETIONS, expected=_chunk_facts(fingerprint, path.stem))
    if chunk_of(fingerprint, keys_of(table)).chunk_id != path.stem:
        raise DamagedFileError(path, "its completions are not those of its chunk")
    if table.column("fingerprint").unique().to_pylist() != [fingerprint]:
        raise DamagedFileError(path, "its rows belong to another condition")
    return table


def _chunk_facts(fingerprint: str, chunk_id: str) -> dict[str, str]:
    return {"kind": "chunk", "fingerprint": fingerprint, "chunk_id": chunk_id}


def _plan_around_finished(layout: StoreLayout, fingerprint: str, missing: list[Key], size: int) -> list[Chunk]:
    """A new plan. Finished chunks stay, and so does the old cut where the finished chunks show that it was this one."""
    finished = [chunk_of(fingerprint, keys_of(table)) for table in finished_chunks(layout, fingerprint).values()]
    anew = cut(fingerprint, missing, size)
    if set(finished) <= set(anew):
        return anew
    covered = {key for chunk in finished for key in chunk.keys}
    return finished + cut(fingerprint, [key for key in missing if key not in covered], size)


def _usable_plan(layout: StoreLayout, fingerprint: str) -> list[Chunk] | None:
    try:
        return read_plan(layout.plan_of(fingerprint), fingerprint)
    except DamagedFileError as damage:
        set_aside(layout, damage.path, damage.reason)
        return None


def read_plan(path: Path, fingerprint: str) -> list[Chunk] | None:
    """The chunks of a plan file, in their order; None where there is no file.

    Raises:
        DamagedFileError: it is torn, or the plan of another condition.
        StorageError: it may not be read.
    """
    try:
        content = json.loads(path.read_bytes())
        stated = content.pop("sha256")
        if content["format"] != _PLAN_FORMAT:
            raise DamagedFileError(path, f"its format is {content['format']} where {_PLAN_FORMAT} was expected")
        if content["fingerprint"] != fingerprint:
            raise DamagedFileError(path, "it is the plan of another condition")
        if stated != digest(content):
            raise DamagedFileError(path, "its checksum does not fit its content")
        chunks = [chunk_of(fingerprint, keys) for keys in content["chunks"]]
        if not all(isinstance(problem_id, str) for chunk in chunks for problem_id, _ in chunk.keys):
            raise DamagedFileError(path, "it names a problem that is no text")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(path, "it is torn or is no plan") from error
    return chunks


def write_plan(layout: StoreLayout, fingerprint: str, chunks: Sequence[Chunk]) -> None:
    """Put a plan in the place of the one that is there.

    Raises:
        StorageError: it cannot be written.
    """
    content: dict[str, Any] = {
        "format": _PLAN_FORMAT,
        "fingerprint": fingerprint,
        "chunks": [chunk.keys for chunk in chunks],
    }
    text = canonical_json({**content, "sha256": digest(content)})
    write_text_durably(layout.plan_of(fingerprint), text, "plan")
