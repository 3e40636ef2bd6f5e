"""The manifest of a bundle: which files it holds, their sizes and sums, and where they were made.

A bundle is `manifest.json` beside `objects/`, in which each file stands under the sha256 of its content. Objects never
change and the manifest is written last, so a manifest that can be read names what is there.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backtracking_assets.conditions import canonical_json, digest
from backtracking_assets.errors import BundleError
from backtracking_assets.section import Name

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 256 * 2**20
EXPERIMENT_FILE = "experiment.yaml"
LOCK_FILE = "constraints.txt"

_FORMAT = 1
_MOST_FILES = 1_000_000

Kind = Literal["archive", "plan", "chunk", "page", "document"]

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,119}"
_PATHS: dict[Kind, re.Pattern[str]] = {
    "archive": re.compile(r"archive/(?P<fingerprint>[0-9a-f]{64})\.parquet"),
    "plan": re.compile(r"journal/(?P<fingerprint>[0-9a-f]{64})/plan\.json"),
    "chunk": re.compile(r"journal/(?P<fingerprint>[0-9a-f]{64})/(?P<chunk_id>[0-9a-f]{16})\.parquet"),
    "page": re.compile(rf"reports/(?:{_SEGMENT}/){{0,4}}{_SEGMENT}\.html"),
    "document": re.compile(re.escape(EXPERIMENT_FILE) + "|" + re.escape(LOCK_FILE)),
}
# Bytes. What is read at once is held low; a chunk or an archive of this project takes megabytes.
_LIMITS: dict[Kind, int] = {
    "archive": 64 * 2**30,
    "plan": 256 * 2**20,
    "chunk": 16 * 2**30,
    "page": 256 * 2**20,
    "document": 2**20,
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Entry(_Strict):
    """One file of a bundle."""

    path: Annotated[str, Field(max_length=1000)]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Origin(_Strict):
    """Where, when and by what a bundle was made."""

    host: Annotated[str, Field(max_length=255)]
    at: Annotated[str, Field(max_length=64)]
    versions: dict[str, Annotated[str, Field(max_length=255)]]
    commit: Annotated[str, Field(max_length=255)]


class Manifest(_Strict):
    """What a bundle holds."""

    format: Literal[1] = _FORMAT
    experiment: Name
    made: Origin
    files: Annotated[list[Entry], Field(max_length=_MOST_FILES)]

    @property
    def by_path(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self.files}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    def to_bytes(self) -> bytes:
        content = self.model_dump(mode="json")
        return canonical_json({**content, "sha256": digest(content)}).encode()


@dataclass(frozen=True)
class Place:
    """What a path of a bundle says about its file."""

    kind: Kind
    fingerprint: str | None = None
    chunk_id: str | None = None


def place_of(path: str) -> Place | None:
    """What a path says; None where it is outside the layout of a store.

    The patterns leave no room for `..`, an absolute path, a backslash, a colon or a hidden file.
    """
    for kind, pattern in _PATHS.items():
        if match := pattern.fullmatch(path):
            found = match.groupdict()
            return Place(kind, found.get("fingerprint"), found.get("chunk_id"))
    return None


def make_manifest(experiment: str, made: Origin, files: Mapping[str, Entry]) -> Manifest:
    """The manifest of these files, sorted by path."""
    return Manifest(experiment=experiment, made=made, files=[files[path] for path in sorted(files)])


def read_manifest(content: bytes, *, experiment: str, where: str) -> Manifest:
    """The manifest that these bytes hold, refused whole unless every line of it is sound.

    Args:
        where: the bundle as it is named to people.

    Raises:
        BundleError: it is torn, of a newer format or another experiment, or names what no bundle may hold.
    """
    try:
        document = json.loads(content, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: the manifest is torn or is no manifest ({_first_line(error)}).") from error
    if not isinstance(document, dict):
        raise BundleError(f"{where}: the manifest is torn or is no manifest (it is no JSON object).")
    form = document.get("format")
    if isinstance(form, int) and form > _FORMAT:
        raise BundleError(
            f"{where}: the manifest has format {_short(form)}, and this release knows {_FORMAT}; "
            f"update backtracking_assets."
        )
    stated = document.pop("sha256", None)
    try:
        if stated != digest(document):
            raise BundleError(f"{where}: the manifest is altered or torn: its checksum does not fit its content.")
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise BundleError(f"{where}: the manifest is no manifest of this project ({place}: {first['msg']}).") from error
    except (ValueError, RecursionError) as error:  # NaN, surrogates
        raise BundleError(f"{where}: the manifest is torn or is no manifest ({_first_line(error)}).") from error
    if manifest.experiment != experiment:
        raise BundleError(
            f"{where}: the bundle is of experiment {manifest.experiment!r}, and {experiment!r} was asked for."
        )
    _check_files(manifest.files, where)
    return manifest


def _check_files(files: Sequence[Entry], where: str) -> None:
    seen: set[str] = set()
    folders: set[str] = set()
    for entry in files:
        place = place_of(entry.path)
        if place is None:
            raise BundleError(f"{where}: the manifest names {_short(entry.path)}, which no bundle may hold.")
        if entry.size > _LIMITS[place.kind]:
            raise BundleError(
                f"{where}: the manifest gives {_short(entry.path)} {_short(entry.size)} bytes, "
                f"more than such a file may have."
            )
        folded = entry.path.casefold()  # some file systems do not tell upper from lower case
        if folded in seen:
            raise BundleError(f"{where}: the manifest names {_short(entry.path)} twice.")
        seen.add(folded)
        folders.update(str(parent) for parent in PurePosixPath(folded).parents)
    if both := sorted(seen & folders):
        raise BundleError(f"{where}: the manifest names {_short(both[0])} as a file and as a folder.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
