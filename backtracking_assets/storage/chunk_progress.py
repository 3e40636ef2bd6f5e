"""How far the chunk at work is: one safetensors file beside the finished chunks of the journal.

It is written by hand, array by array, so that a state of gigabytes needs no second copy in memory. The header's
metadata says whose state it is and holds the sha256 of the whole file, taken with zeros in the place of the sum.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.chunks import Chunk
from backtracking_assets.storage.durable import write_durably
from backtracking_assets.storage.layout import PROGRESS_SUFFIX, StoreLayout
from backtracking_assets.storage.parquet import DamagedFileError
from backtracking_assets.storage.set_aside import set_aside

_FORMAT = "1"
_DTYPES = {"int16": "I16", "int32": "I32", "int64": "I64", "float16": "F16", "float32": "F32", "bool": "BOOL"}
_NO_SUM = "0" * 64
_PIECE = 2**20
_LONGEST_HEADER = 2**24
_UNUSABLE = (DamagedFileError, OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class ChunkProgress:
    """The state of a chunk: numbers and arrays by name, which mean something to the engine alone."""

    facts: Mapping[str, float]
    arrays: Mapping[str, np.ndarray]


def write_progress(
    layout: StoreLayout, fingerprint: str, chunk: Chunk, made_with: str, progress: ChunkProgress
) -> None:
    """Put the state of a chunk in the place of an earlier one. The caller holds the condition's generation lock.

    Args:
        made_with: digest of all that has to be the same for the chunk to go on from it.

    Raises:
        StorageError: it cannot be written.
        KeyError: an array has a type that no state has.
    """
    metadata = _expected(fingerprint, chunk, made_with) | {"facts": json.dumps(dict(progress.facts), sort_keys=True)}
    header = _header(metadata, progress.arrays)

    def write(temporary: Path) -> None:
        sums = hashlib.sha256(header)
        with temporary.open("wb") as file:
            file.write(header)
            for array in filter(np.size, progress.arrays.values()):  # a view of nothing has no bytes
                piece = np.ascontiguousarray(array).data.cast("B")
                sums.update(piece)
                file.write(piece)
            file.seek(header.index(_NO_SUM.encode()))
            file.write(sums.hexdigest().encode())

    write_durably(layout.progress_file(fingerprint, chunk.chunk_id), write, "progress")


def read_progress(layout: StoreLayout, fingerprint: str, chunk: Chunk, made_with: str) -> ChunkProgress | None:
    """The state of a chunk; None where there is none, or one that is damaged or outdated, which is set aside.

    Raises:
        StorageError: the file cannot be read, or cannot be set aside.
    """
    path = layout.progress_file(fingerprint, chunk.chunk_id)
    try:
        return _read(path, _expected(fingerprint, chunk, made_with))
    except FileNotFoundError:
        return None
    except DamagedFileError as damage:
        set_aside(layout, path, damage.reason)
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error


def kept_steps(layout: StoreLayout, fingerprint: str) -> int | None:
    """Decode steps after which a chunk of a condition is kept, from its header alone; None where none is kept.

    A file of another condition or format, or one whose header cannot be read, counts as none.
    """
    steps: list[int] = []
    for path in layout.journal_of(fingerprint).glob(f"*{PROGRESS_SUFFIX}"):
        try:
            with path.open("rb") as file:
                metadata = _metadata(path, file)
            if (metadata["format"], metadata["fingerprint"]) != (_FORMAT, fingerprint):
                continue
            facts = json.loads(metadata["facts"])
            steps.append(int(facts["steps_before"] + facts["step"]))
        except _UNUSABLE:  # what reads all of it says so
            continue
    return max(steps, default=None)


def _expected(fingerprint: str, chunk: Chunk, made_with: str) -> dict[str, str]:
    return {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "chunk_id": chunk.chunk_id,
        "made_with": made_with,
    }


def _header(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> bytes:
    """What stands before the arrays: its own length, then JSON that is padded to a multiple of eight bytes."""
    fields: dict[str, object] = {"__metadata__": {**metadata, "sha256": _NO_SUM}}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        fields[name] = {"dtype": _DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(fields).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read(path: Path, expected: Mapping[str, str]) -> ChunkProgress:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    with path.open("rb") as file:
        metadata = _metadata(path, file)
        for key, value in expected.items():
            if metadata.get(key) != value:
                raise DamagedFileError(path, _OTHER.get(key, f"it is no state of this chunk: its {key} is another one"))
        file.seek(0)
        if _sum(file, metadata.get("sha256", "")) != metadata.get("sha256"):
            raise DamagedFileError(path, "it is torn or altered: its checksum does not fit its content")
    try:
        arrays = load_file(path)
        facts = {str(name): float(value) for name, value in json.loads(metadata["facts"]).items()}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(path, "it is torn or is no state of a chunk") from error
    return ChunkProgress(facts, arrays)


_OTHER = {
    "format": "it has another format than this release writes",
    "made_with": "it was made with another prompt, device, plan or version, so the chunk cannot go on from it",
}


def _metadata(path: Path, file: BinaryIO) -> dict[str, str]:
    try:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError("the header is too long")
        return {str(key): str(value) for key, value in json.loads(file.read(length))["__metadata__"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(path, "it is torn or is no state of a chunk") from error


def _sum(file: BinaryIO, stated: str) -> str:
    """The sha256 of a file with zeros in the place of the stated one, which stands in its header."""
    prefix = file.read(8)
    header = file.read(int.from_bytes(prefix, "little"))
    sums = hashlib.sha256(prefix + header.replace(stated.encode(), _NO_SUM.encode(), 1))
    for piece in _pieces(file):
        sums.update(piece)
    return sums.hexdigest()


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
