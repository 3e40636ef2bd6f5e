"""Stores and bundles small enough to reason about, for the tests of bundles."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backtracking_assets.conditions import Condition, canonical_json, digest
from backtracking_assets.storage.archive import archived_fingerprints, compact, read_archive
from backtracking_assets.storage.bundles.location import Location, open_location
from backtracking_assets.storage.bundles.manifest import Origin
from backtracking_assets.storage.bundles.pull import Pulled, pull
from backtracking_assets.storage.bundles.push import Pushed, push
from backtracking_assets.storage.journal import clear_journal, finish_chunk, plan_chunks, read_chunk
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import Key, keys_of
from backtracking_assets_tests.unit.storage_samples import completions_of

EXPERIMENT = "tiny"
MADE = Origin(host="here", at="2026-01-02T03:04:05+00:00", versions={"python": "3.11"}, commit="abc")


def document(folder: Path) -> Path:
    """An experiment file that says its name; known experiments are not read further."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    if not path.exists():
        path.write_text(f"name: {EXPERIMENT}\n", encoding="utf-8")
    return path


def new_store(root: Path) -> StoreLayout:
    layout = StoreLayout(root)
    layout.prepare()
    return layout


def work(
    layout: StoreLayout,
    of: Condition,
    wanted: list[Key],
    *,
    size: int = 4,
    n_chunks: int | None = None,
    present: Iterable[Key] = (),
    **changes: Any,
) -> None:
    """Finish chunks of a condition as a generating run does, all or the first `n_chunks`; nothing is archived."""
    for chunk in plan_chunks(layout, of.fingerprint, wanted, set(present), size)[:n_chunks]:
        finish_chunk(layout, of.fingerprint, chunk, completions_of(of.fingerprint, chunk, **changes))


def archive(layout: StoreLayout, of: Condition, wanted: list[Key], **changes: Any) -> None:
    """Have a condition archived and its journal cleared."""
    work(layout, of, wanted, **changes)
    compact(layout, of)
    clear_journal(layout, of.fingerprint)


def page(layout: StoreLayout, name: str, text: str) -> Path:
    path = layout.reports / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def send(layout: StoreLayout, place: str | Location) -> Pushed:
    location = place if isinstance(place, Location) else open_location(place, EXPERIMENT)
    documents = {"experiment.yaml": document(layout.root.parent)}
    return push(layout, location, experiment=EXPERIMENT, documents=documents, made=MADE)


def receive(layout: StoreLayout, place: str | Location) -> Pulled:
    location = place if isinstance(place, Location) else open_location(place, EXPERIMENT)
    return pull(layout, location, experiment=EXPERIMENT, known=True)


def held(layout: StoreLayout) -> dict[str, set[Key]]:
    """Every completion in archives and journals by fingerprint, each file checked."""
    found = {name: set(keys_of(read_archive(layout, name))) for name in archived_fingerprints(layout)}
    for file in layout.journal.glob("*/*.parquet"):
        found.setdefault(file.parent.name, set()).update(keys_of(read_chunk(file, file.parent.name)))
    return found


def files(layout: StoreLayout) -> dict[str, bytes]:
    """Content of everything of a store that travels, and of the database if there is one."""
    folders = (layout.archive, layout.journal, layout.reports)
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(layout.root).as_posix(): path.read_bytes() for path in found}


def write_bundle(folder: Path, contents: dict[str, bytes], **changes: Any) -> None:
    """A bundle as somebody else may have written it, sound in itself: its sums fit whatever it holds."""
    root = folder / EXPERIMENT
    entries = []
    for path, content in contents.items():
        name = hashlib.sha256(content).hexdigest()
        put(root / "objects" / name[:2] / name, content)
        entries.append({"path": path, "size": len(content), "sha256": name})
    write_manifest(
        folder, {"format": 1, "experiment": EXPERIMENT, "made": MADE.model_dump(), "files": entries} | changes
    )


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """A manifest with a fitting checksum, whatever stands in it."""
    put(folder / EXPERIMENT / "manifest.json", canonical_json({**content, "sha256": digest(content)}).encode())


def manifest_of(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / EXPERIMENT / "manifest.json").read_bytes())
    del content["sha256"]
    return content


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
