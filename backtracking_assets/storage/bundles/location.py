"""Where a bundle lies: a folder, S3 or the Hugging Face hub, through fsspec.

Credentials come from the environment alone. A URL that carries some is refused before anything prints it.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from backtracking_assets.errors import BacktrackingError, BundleError
from backtracking_assets.storage.bundles.manifest import MANIFEST, MANIFEST_LIMIT, Entry
from backtracking_assets.storage.durable import make_folder, remove_stale_temporaries, write_durably

_OBJECTS = "objects"
_BLOCK = 2**20
_MOST_AT_ONCE = 8
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
# A secret key may hold a slash. A folder may hold anything, if its path does not begin like a key.
_USER = re.compile(r"[^/.~@][^@]*?:[^@]*@|:[^@]*@")
_SECRETS = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_EXAMPLES = {"s3": "s3://bucket/prefix", "hf": "hf://datasets/user/name"}
_LEAST_STEPS = {"s3": 1, "hf": 3}
# A place that does not answer is given up after this many seconds a request, and not tried for ever.
_S3_SETTINGS = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3}}


T = TypeVar("T")
R = TypeVar("R")


class DamagedObjectError(BundleError):
    """An object is missing, or is not what the manifest states."""


@dataclass(frozen=True)
class Sums:
    """Size in bytes and digests of a content."""

    size: int
    sha256: str
    md5: str


def sums_of(content: bytes) -> Sums:
    return Sums(
        len(content), hashlib.sha256(content).hexdigest(), hashlib.md5(content, usedforsecurity=False).hexdigest()
    )


@dataclass(frozen=True)
class Location:
    """The place of one experiment's bundle."""

    filesystem: Any
    """An fsspec file system; fsspec has no types."""
    root: str
    shown: str
    """The place as people are told it; holds no credentials."""

    @property
    def _local(self) -> bool:
        return "file" in self.filesystem.protocol

    @property
    def readers(self) -> int:
        """Files that are fetched at the same time: a request to a far place is mostly waiting."""
        return 1 if self._local else _MOST_AT_ONCE

    @property
    def writers(self) -> int:
        """Objects that are sent at the same time; on the hub each is a commit, and commits exclude one another."""
        return _MOST_AT_ONCE if "s3" in self.filesystem.protocol else 1

    def read_manifest(self) -> bytes | None:
        """The bytes of the manifest; None where there is none.

        Raises:
            BundleError: the place cannot be read.
        """
        path = f"{self.root}/{MANIFEST}"
        with self._errors("read"):
            self.filesystem.invalidate_cache()
            try:
                self._check_plain(self.filesystem.info(path), MANIFEST, limit=MANIFEST_LIMIT)
            except FileNotFoundError:
                return None
            with self.filesystem.open(path, "rb") as file:
                content = file.read(MANIFEST_LIMIT + 1)
        return content

    def write_manifest(self, content: bytes) -> None:
        """Put a manifest in the place of the one that is there; readers meet the old one or the new one.

        Raises:
            BundleError: it cannot be written, or is not there afterwards.
        """
        self._write(MANIFEST, content)
        if self.read_manifest() != content:
            raise BundleError(
                f"{self.shown}: the manifest is another one than was written, as after two pushes at the same moment; "
                f"run the same command again."
            )

    def objects(self) -> dict[str, dict[str, Any]]:
        """What the place says about each object that is there, by sha256.

        Raises:
            BundleError: the place cannot be read.
        """
        with self._errors("read"):
            self.filesystem.invalidate_cache()
            try:
                found = self.filesystem.find(f"{self.root}/{_OBJECTS}", detail=True)
            except FileNotFoundError:
                return {}
        return {path.rsplit("/", 1)[-1]: info for path, info in found.items()}

    def put_object(self, sha256: str, content: bytes) -> None:
        """Write an object.

        Raises:
            BundleError: it cannot be written.
        """
        self._write(_object_name(sha256), content)

    def remove_leftovers(self) -> None:
        """Remove what a killed push of this host left half-written in a folder; other places keep no such files."""
        if self._local:
            for folder in (Path(self.root), *(Path(self.root) / _OBJECTS).glob("??")):
                remove_stale_temporaries(folder)

    def read_object(self, entry: Entry, write: Callable[[bytes], object]) -> None:
        """Hand an object to `write` block by block, never more of it than the manifest states.

        Raises:
            BundleError: it is missing, cannot be read, or has another size or sum than the manifest states.
        """
        running, size = hashlib.sha256(), 0
        path = f"{self.root}/{_object_name(entry.sha256)}"
        with self._errors("read"):
            try:
                self._check_plain(self.filesystem.info(path), entry.path, limit=entry.size)
            except FileNotFoundError as error:
                raise DamagedObjectError(
                    f"{self.shown}: {entry.path} is missing from the bundle; push it again from where it was made."
                ) from error
            file = self.filesystem.open(path, "rb")
        with file:
            while size <= entry.size:
                with self._errors("read"):
                    block = file.read(min(_BLOCK, entry.size + 1 - size))
                if not block:
                    break
                running.update(block)
                size += len(block)
                write(block)
        if size != entry.size or running.hexdigest() != entry.sha256:
            raise DamagedObjectError(
                f"{self.shown}: {entry.path} is damaged or altered: its size or sum is not what the manifest states; "
                f"push it again from where it was made."
            )

    def proves(self, sums: Sums, info: Mapping[str, Any]) -> str | None:
        """How the place shows that an object is whole: by `checksum`, or `reading` it back; None if it does not.

        Raises:
            BundleError: the place cannot be read.
        """
        if info.get("size") != sums.size:
            return None
        tag = str(info.get("ETag", "")).strip('"')
        if re.fullmatch(r"[0-9a-f]{32}", tag) and tag == sums.md5:
            return "checksum"
        lfs = info.get("lfs")
        stored = lfs.get("sha256") if isinstance(lfs, Mapping) else getattr(lfs, "sha256", None)
        if stored is not None:
            return "checksum" if stored == sums.sha256 else None
        try:
            self.read_object(Entry(path=sums.sha256, size=sums.size, sha256=sums.sha256), lambda block: None)
        except DamagedObjectError:
            return None
        return "reading"

    def _write(self, name: str, content: bytes) -> None:
        path = f"{self.root}/{name}"
        if self._local:
            # Renamed into place: a copy that is cut off would stand under the name of the whole.
            target = Path(path)
            with self._errors("written"):
                make_folder(target.parent)
                write_durably(target, lambda temporary: temporary.write_bytes(content))
            return
        with self._errors("written"):  # one request, which stores all of it or nothing
            self.filesystem.pipe_file(path, content)

    def _check_plain(self, info: Mapping[str, Any], name: str, *, limit: int) -> None:
        if info.get("islink") or info.get("type") != "file":
            raise BundleError(f"{self.shown}: {name} is a link or no plain file; no bundle holds such.")
        size = info.get("size")
        if size is not None and size > limit:
            raise DamagedObjectError(f"{self.shown}: {name} has {size} bytes where at most {limit} were expected.")

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Have whatever the place raises say in one sentence what could not be done. Backends raise anything."""
        try:
            yield
        except BundleError:
            raise
        except BacktrackingError as error:
            raise BundleError(f"{self.shown} cannot be {what}: {error}") from error
        except Exception as error:
            raise BundleError(f"{self.shown} cannot be {what}: {_reason(error)}.") from error


def open_location(url: str, experiment: str) -> Location:
    """The place of an experiment's bundle at a URL: a folder, `s3://bucket/prefix` or `hf://datasets/user/name`.

    Raises:
        BundleError: the URL is none of these, carries credentials, or needs a package that is not installed.
    """
    match = _SCHEME.match(url)
    scheme = match["scheme"].lower() if match else "file"
    rest = url[match.end() :] if match else url
    if _USER.match(rest) or (scheme != "file" and (re.search(r"[?#]", rest) or ":" in rest.split("/", 1)[0])):
        raise BundleError(
            f"The {scheme}:// URL carries credentials or a query, and was not used; leave them out and set them in the "
            f"environment (docs/moving.md names the variables)."
        )
    if scheme != "file" and scheme not in _EXAMPLES:
        raise BundleError(f"Bundles lie in a folder, at s3://… or at hf://…, and {scheme}:// is none of these.")
    if scheme == "file":
        if not rest:
            raise BundleError("An empty URL names no place for a bundle; it should look like /media/disk/results.")
        root = str(Path(rest).expanduser().resolve() / experiment)
        return Location(_filesystem("file"), root, root)
    rest = rest.rstrip("/")
    steps = rest.split("/")
    if not all(steps) or ".." in steps or len(steps) < _LEAST_STEPS[scheme]:
        raise BundleError(f"{url!r} names no place for a bundle; it should look like {_EXAMPLES[scheme]}.")
    return Location(_filesystem(scheme), f"{rest}/{experiment}", f"{scheme}://{rest}/{experiment}")


def fetch(location: Location, entry: Entry, file: Path) -> None:
    """Copy an object of a bundle to a file, whole or not at all.

    Raises:
        BundleError: it cannot be read, or is not what the manifest states.
        StorageError: the file cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:
            location.read_object(entry, handle.write)

    make_folder(file.parent)
    write_durably(file, write)


def at_once(n_threads: int, do: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    """What `do` returns for each task, as they are done. The first that raises ends it, and no other is begun."""
    with ThreadPoolExecutor(n_threads) as pool:
        futures = [pool.submit(do, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _filesystem(scheme: str) -> Any:
    import fsspec

    settings = {"use_listings_cache": False, "config_kwargs": _S3_SETTINGS} if scheme == "s3" else {}
    try:
        return fsspec.filesystem(scheme, skip_instance_cache=True, **settings)
    except ImportError as error:
        raise BundleError(
            "s3:// needs the package s3fs; install it with: pip install 'backtracking-assets[s3]'."
        ) from error


def _object_name(sha256: str) -> str:
    return f"{_OBJECTS}/{sha256[:2]}/{sha256}"


def _reason(error: Exception) -> str:
    """The first line of a backend's error, with whatever the environment keeps secret blotted out."""
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".")[:300] if lines else type(error).__name__
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRETS.search(name):
            text = text.replace(value, "***")
    text = re.sub(r"//[^/\s@]+@", "//***@", text)
    if "redentials" in text or "redentials" in type(error).__name__:
        text += "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    return text
