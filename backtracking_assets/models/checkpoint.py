"""Checkpoint folders: finding them, what identifies them, and what is checked before they are used.

Only safetensors are read and no code of a checkpoint is ever run.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from backtracking_assets.conditions import digest
from backtracking_assets.errors import CheckpointError
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_sections import ModelSource

_INDEX = "model.safetensors.index.json"
_DIGEST_CACHE = "checkpoint_digests.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_DOWNLOADED = ("*.json", "*.safetensors", "*.jinja")


class FileState(NamedTuple):
    """What tells cheaply that a file was written or replaced."""

    name: str
    n_bytes: int
    mtime_ns: int
    ctime_ns: int
    """Set by the system; a modification time can be put back by whoever writes the file."""
    inode: int


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
    files: tuple["FileState", ...]
    """What the files looked like before they were read."""


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
        folder = Path(snapshot_download(**arguments, local_files_only=True))
    except LocalEntryNotFoundError:
        if not download:
            raise CheckpointError(
                f"The checkpoint {source.hub_id} (revision {source.revision}) is not on this machine yet; "
                "the first sweep downloads it."
            ) from None
    else:
        # A download that broke off leaves a folder too, and the hub's library returns it without looking inside.
        missing = _missing_file(folder)
        if missing is None:
            return folder
        if not download:
            raise CheckpointError(
                f"The checkpoint {source.hub_id} (revision {source.revision}) is incomplete on this machine "
                f"({missing} is missing); the next sweep downloads the rest."
            )
    try:
        return Path(snapshot_download(**arguments))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"The checkpoint {source.hub_id} (revision {source.revision}) could not be downloaded: {reason} "
            "Check the network and HF_TOKEN, or set model.path to a folder that holds it."
        ) from error


def _missing_file(folder: Path) -> str | None:
    """The first file that a hub snapshot lacks to be loaded; None if it is complete."""
    needed = ["config.json", "tokenizer.json"]
    needed += sorted(_indexed_weights(folder)) if (folder / _INDEX).is_file() else ["model.safetensors"]
    return next((name for name in needed if not (folder / name).is_file()), None)


def weight_files(folder: Path) -> list[Path]:
    """The files that a model is loaded from; a folder may hold other safetensors. Empty where there are none.

    Raises:
        CheckpointError: the index of a sharded checkpoint is malformed.
    """
    if (folder / _INDEX).is_file():
        return [folder / name for name in sorted(_indexed_weights(folder))]
    return [path for path in (folder / "model.safetensors",) if path.is_file()]


def inspect(folder: Path, cache_dir: Path | None = None) -> Checkpoint:
    """Read a checkpoint folder's configuration and digests; needs no torch.

    Args:
        cache_dir: folder in which file digests are kept, so that gigabytes are hashed once; a file is hashed again
            when its size, its times or its inode change.

    Raises:
        CheckpointError: a file is missing, truncated or malformed.
    """
    files = _file_states(folder)
    config = read_config(folder)
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
        files=files,
    )


def changed_file(checkpoint: Checkpoint, cache_dir: Path | None = None) -> str | None:
    """The first file of a checkpoint whose content is another one now than when it was inspected; None if none is.

    Looks at sizes and times alone, unless a file was touched: then the files that were are hashed.
    """
    states = _file_states(checkpoint.folder)
    if states == checkpoint.files:
        return None
    touched = sorted(state.name for state in set(states) ^ set(checkpoint.files))
    try:
        now = inspect(checkpoint.folder, cache_dir)
    except (CheckpointError, OSError):  # half-written, or gone
        return touched[0]
    before = (checkpoint.weights_digest, checkpoint.tokenizer_digest)
    return None if (now.weights_digest, now.tokenizer_digest) == before else touched[0]


def _file_states(folder: Path) -> tuple[FileState, ...]:
    names = ("config.json", *_TOKENIZER_FILES, *(path.name for path in folder.glob("*.safetensors")))
    found: list[FileState] = []
    for name in sorted(names):
        with suppress(FileNotFoundError):
            stat = (folder / name).stat()
            found.append(FileState(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    return tuple(found)


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


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says.

    Raises:
        CheckpointError: it is missing or malformed, or some layer does not attend to all earlier tokens.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: config.json is missing; this is not a checkpoint folder.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: the file cannot be read as JSON ({error}).") from error
    if not isinstance(config, dict) or not isinstance(config.get("num_hidden_layers"), int):
        raise CheckpointError(f"{path}: num_hidden_layers is missing; this is not a decoder-only language model.")
    check_full_attention(path, config)
    return config


def check_full_attention(place: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model configuration in which some layer does not attend to all earlier tokens.

    `config.json` may leave out what a model class derives from its defaults, so the configuration of the loaded model
    is checked as well. A sliding window as long as all positions that the model knows changes nothing and passes.

    Raises:
        CheckpointError: a layer has another kind of attention.
    """
    kinds: set[str] = set(map(str, config.get("layer_types") or ())) - {"full_attention"}
    window = config.get("sliding_window")
    # Qwen2 writes a window even where its switch is off; Mistral and Phi-3 have no switch.
    if isinstance(window, int) and config.get("use_sliding_window") is not False:
        positions = config.get("max_position_embeddings")
        if not isinstance(positions, int) or window < positions:
            kinds.add("sliding_attention")
    if kinds:
        raise CheckpointError(
            f"{place}: layers of type {', '.join(sorted(kinds))} are not supported; "
            "every layer must use full attention."
        )


def _check_weights(folder: Path, weights: list[Path]) -> None:
    from safetensors import SafetensorError, safe_open

    if not weights:
        raise CheckpointError(
            f"{folder}: there is no .safetensors file; other weight formats can hold code and are not read."
        )
    if (folder / _INDEX).is_file():
        named = _indexed_weights(folder)
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


def _indexed_weights(folder: Path) -> set[str]:
    """Names of the weight files that the index of a sharded checkpoint lists."""
    index = folder / _INDEX
    try:
        return {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: the file is malformed ({error}).") from error


class _DigestCache:
    """sha256 of files, remembered by path, size, times and inode. Where it cannot be kept, files are hashed."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / _DIGEST_CACHE if folder is not None else None
        self._entries: dict[str, str] = {}
        self._changed = False
        if self._path is not None:
            # Only a cache: one that is missing, damaged or not readable is made anew.
            with suppress(OSError, ValueError, AttributeError, RecursionError):
                entries = json.loads(self._path.read_text(encoding="utf-8"))
                self._entries = {str(key): str(value) for key, value in entries.items()}

    def sha256(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
        if key not in self._entries:
            with path.open("rb") as file:
                self._entries[key] = hashlib.file_digest(file, "sha256").hexdigest()
            self._changed = True
        return self._entries[key]

    def save(self) -> None:
        if self._path is None or not self._changed:
            return
        # A name of its own: processes on several devices save at the same time.
        temporary = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_text(json.dumps(self._entries, indent=1, sort_keys=True), encoding="utf-8")
            temporary.replace(self._path)
        except OSError:  # a folder that is missing, full or read-only
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
