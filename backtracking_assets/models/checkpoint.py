"""Checkpoint folders: finding them, what identifies them, and what is checked before they are used.

Only safetensors are read and no code of a checkpoint is ever run.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backtracking_assets.conditions import digest
from backtracking_assets.errors import CheckpointError
from backtracking_assets.experiment import Experiment, ModelSource

_DIGEST_CACHE = "checkpoint_digests.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_DOWNLOADED = ("*.json", "*.safetensors", "*.jinja")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder and the digests that identify what it holds."""

    folder: Path
    weights_digest: str
    """Digest of config.json and of every safetensors file."""
    tokenizer_digest: str
    n_layers: int
    model_type: str
    n_bytes: int


def locate(experiment: Experiment, *, download: bool = True) -> Path:
    """The checkpoint's folder; downloaded from the hub first if it is not here and `download` is set.

    Raises:
        CheckpointError: it is neither here nor to be had.
    """
    source = experiment.model
    if source.path is not None:
        folder = experiment.resolve(source.path)
        if not folder.is_dir():
            raise CheckpointError(f"There is no checkpoint folder {folder}; check model.path in {experiment.source}.")
        return folder
    return _hub_snapshot(source, download=download)


def _hub_snapshot(source: ModelSource, *, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert source.hub_id is not None
    arguments: dict[str, Any] = {"repo_id": source.hub_id, "revision": source.revision, "allow_patterns": _DOWNLOADED}
    try:
        return Path(snapshot_download(**arguments, local_files_only=True))
    except LocalEntryNotFoundError:
        if not download:
            raise CheckpointError(
                f"The checkpoint {source.hub_id} (revision {source.revision}) is not on this machine yet; "
                "the first sweep downloads it."
            ) from None
    try:
        return Path(snapshot_download(**arguments))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"The checkpoint {source.hub_id} (revision {source.revision}) could not be downloaded: {reason} "
            "Check the network and HF_TOKEN, or set model.path to a folder that holds it."
        ) from error


def inspect(folder: Path, cache_dir: Path | None = None) -> Checkpoint:
    """Read a checkpoint folder's configuration and digests; needs no torch.

    Args:
        cache_dir: folder in which file digests are kept, so that gigabytes are hashed once; a file is hashed again
            when its size or modification time changes.

    Raises:
        CheckpointError: a file is missing, truncated or malformed.
    """
    config = _read_config(folder)
    weights = sorted(folder.glob("*.safetensors"))
    _check_weights(folder, weights)
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder}: tokenizer.json is missing; a fast tokenizer is needed.")
    known = _DigestCache(cache_dir)
    weights_digest = digest(
        [["config.json", known.sha256(folder / "config.json")]] + [[path.name, known.sha256(path)] for path in weights]
    )
    tokenizer = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    tokenizer_digest = digest([[path.name, known.sha256(path)] for path in tokenizer])
    known.save()
    return Checkpoint(
        folder=folder,
        weights_digest=weights_digest,
        tokenizer_digest=tokenizer_digest,
        n_layers=config["num_hidden_layers"],
        model_type=str(config.get("model_type", "unknown")),
        n_bytes=sum(path.stat().st_size for path in weights),
    )


def check_fits(checkpoint: Checkpoint, experiment: Experiment) -> None:
    """Refuse a checkpoint whose depth is not what the experiment file says.

    Raises:
        CheckpointError: the numbers of layers differ.
    """
    if checkpoint.n_layers != experiment.model.n_layers:
        raise CheckpointError(
            f"{checkpoint.folder} has {checkpoint.n_layers} layers and {experiment.source} says "
            f"model.n_layers: {experiment.model.n_layers}; correct one of them."
        )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: config.json is missing; this is not a checkpoint folder.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: the file cannot be read as JSON ({error}).") from error
    if not isinstance(config, dict) or not isinstance(config.get("num_hidden_layers"), int):
        raise CheckpointError(f"{path}: num_hidden_layers is missing; this is not a decoder-only language model.")
    kinds = set(config.get("layer_types") or ["full_attention"])
    if kinds != {"full_attention"}:
        raise CheckpointError(
            f"{path}: layers of type {', '.join(sorted(kinds - {'full_attention'}))} are not supported; "
            "every layer must use full attention."
        )
    return config


def _check_weights(folder: Path, weights: list[Path]) -> None:
    from safetensors import SafetensorError, safe_open

    if not weights:
        raise CheckpointError(
            f"{folder}: there is no .safetensors file; other weight formats can hold code and are not read."
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index}: the file is malformed ({error}).") from error
        missing = sorted(named - {path.name for path in weights})
        if missing:
            raise CheckpointError(f"{folder}: {missing[0]} is missing ({len(missing)} of {len(named)} weight files).")
    for path in weights:
        try:
            # Opening checks the header against the file's length: a truncated download fails here.
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: the file is truncated or damaged ({error}); fetch it again.") from error


class _DigestCache:
    """sha256 of files, remembered by path, size and modification time."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / _DIGEST_CACHE if folder is not None else None
        self._entries: dict[str, str] = {}
        self._changed = False
        if self._path is not None and self._path.is_file():
            try:
                entries = json.loads(self._path.read_text(encoding="utf-8"))
                self._entries = {str(key): str(value) for key, value in entries.items()}
            except (OSError, ValueError, AttributeError):
                self._entries = {}  # only a cache: a damaged one is made anew

    def sha256(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in self._entries:
            with path.open("rb") as file:
                self._entries[key] = hashlib.file_digest(file, "sha256").hexdigest()
            self._changed = True
        return self._entries[key]

    def save(self) -> None:
        if self._path is None or not self._changed:
            return
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._entries, indent=1, sort_keys=True), encoding="utf-8")
        temporary.replace(self._path)
