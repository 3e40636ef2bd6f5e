"""The mean outputs of components: vectors in safetensors under their digest, and a note of what they were made from."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backtracking_assets.conditions import canonical_json
from backtracking_assets.records import Component
from backtracking_assets.storage.durable import make_folder, remove_stale_temporaries, write_durably, write_text_durably
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.parquet import DamagedFileError

MEANS_VERSION = "1"
"""Raised when other means come from the same completions."""

Vectors = Mapping[tuple[int, Component], np.ndarray]
"""The mean output of each component, `[hidden]`, float32."""


class MeansNote(BaseModel):
    """What means were computed from, where, and how they lie in the outputs that they are of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    means: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the vectors."""
    n_completions: int
    n_positions: int
    device: str
    run_id: str
    shares: dict[str, float]
    """By component, such as `attention.15`: the squared length of its mean over the mean squared length of outputs."""


def means_digest(vectors: Vectors) -> str:
    """Hexadecimal sha256 over the names, shapes and float32 values of the vectors."""
    sums = hashlib.sha256()
    for (layer, kind), vector in sorted(vectors.items()):
        sums.update(f"{kind}.{layer} {vector.shape}\n".encode())
        sums.update(np.ascontiguousarray(vector, dtype="<f4").tobytes())
    return sums.hexdigest()


def means_path(layout: StoreLayout, digest: str) -> Path:
    return layout.means / f"{digest}.safetensors"


def write_means(layout: StoreLayout, made_from: str, vectors: Vectors, note: MeansNote) -> None:
    """Store means and what they were made from. The note comes last: means without one count as missing.

    Raises:
        StorageError: the folder cannot be written.
    """
    from safetensors.numpy import save  # not needed to load the definitions

    tensors = {f"{kind}.{layer}": np.ascontiguousarray(v, dtype=np.float32) for (layer, kind), v in vectors.items()}
    make_folder(layout.means)
    remove_stale_temporaries(layout.means)
    write_durably(means_path(layout, note.means), lambda temporary: temporary.write_bytes(save(tensors)))
    write_text_durably(_note_path(layout, made_from), canonical_json(note.model_dump(mode="json")))


def read_means(layout: StoreLayout, digest: str) -> dict[tuple[int, Component], np.ndarray]:
    """The vectors of a digest.

    Raises:
        DamagedFileError: they are not there, or are not those of the digest.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = means_path(layout, digest)
    try:
        tensors = load(path.read_bytes())
        vectors = {_component(name): tensor for name, tensor in tensors.items()}
    except FileNotFoundError as error:
        raise DamagedFileError(path, "is not there") from error
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DamagedFileError(path, "cannot be read as safetensors") from error
    if means_digest(vectors) != digest:
        raise DamagedFileError(path, "holds other vectors than its name says")
    return vectors


def means_note(layout: StoreLayout, made_from: str) -> MeansNote | None:
    """The note on means that were made from something; None where there is none, or it cannot be read."""
    try:
        return MeansNote.model_validate(json.loads(_note_path(layout, made_from).read_bytes()))
    except (OSError, ValueError, ValidationError):
        return None


def current_means(layout: StoreLayout, made_from: str) -> str | None:
    """Digest of the means that were made from something; None where they are not there, or damaged."""
    note = means_note(layout, made_from)
    try:
        if note is not None:
            read_means(layout, note.means)
    except DamagedFileError:
        return None
    return None if note is None else note.means


def _note_path(layout: StoreLayout, made_from: str) -> Path:
    return layout.means / f"{made_from}.json"


def _component(name: str) -> tuple[int, Component]:
    kind, _, layer = name.partition(".")
    if kind == "attention":
        return int(layer), "attention"
    if kind == "mlp":
        return int(layer), "mlp"
    raise ValueError(name)
