"""Bundles that somebody else may have made: refused whole, in one sentence, before anything here changes."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backtracking_assets.errors import BundleError
from backtracking_assets.storage.bundles.location import open_location
from backtracking_assets.storage.bundles.manifest import place_of, read_manifest
from backtracking_assets.storage.bundles.pull import pull
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.unit.bundle_samples import (
    EXPERIMENT,
    archive,
    files,
    manifest_of,
    new_store,
    page,
    put,
    receive,
    send,
    work,
    write_bundle,
    write_manifest,
)
from backtracking_assets_tests.unit.storage_samples import condition, keys

ONE, TWO = condition(0.0), condition(0.5)
DOCUMENT = b"name: tiny\n"


@pytest.fixture
def here(tmp_path: Path) -> StoreLayout:
    """A store with one archived condition."""
    layout = new_store(tmp_path / "here" / EXPERIMENT)
    archive(layout, TWO, keys(2, 2))
    return layout


def refuse(here: StoreLayout, bundles: Path) -> str:
    """The sentence by which a bundle is refused; nothing here has changed by it."""
    before = files(here)
    with pytest.raises(BundleError) as refused:
        receive(here, str(bundles))
    assert files(here) == before
    outside = {path for path in here.root.parent.parent.rglob("*") if "evil" in path.name}
    assert outside == set()
    message = str(refused.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "path",
    [
        "../evil.html",
        "reports/../../evil.html",
        "reports/../evil.html",
        "/tmp/evil.html",
        "reports\\evil.html",
        "reports/..\\..\\evil.html",
        "C:/evil.html",
        "reports/C:evil.html",
        "reports/.evil.html",
        "reports//evil.html",
        "reports/./evil.html",
        "reports/evil.html\n",
        "reports/evil.html\0",
        "reports/ev\u0456l.html",
        "reports/evil.js",
        "reports/a/b/c/d/e/evil.html",
        "reports/" + "x" * 200 + ".html",
        "archive/evil.parquet",
        f"archive/{'a' * 64}.parquet.html",
        f"archive/{'A' * 64}.parquet",
        f"archive/sub/{'a' * 64}.parquet",
        f"journal/{'a' * 64}/evil.json",
        f"journal/{'a' * 64}/{'b' * 15}.parquet",
        f"journal/{'a' * 64}/../plan.json",
        "backtracking.duckdb",
        "locks/database.lock",
        "set_aside/evil",
        "checkpoint_digests.json",
        "",
        ".",
    ],
)
def test_a_path_outside_the_layout(here: StoreLayout, tmp_path: Path, path: str) -> None:
    write_bundle(tmp_path / "bundles", {"experiment.yaml": DOCUMENT, path: b"content"})
    assert "which no bundle may hold" in refuse(here, tmp_path / "bundles")


def test_paths_of_a_store_are_known() -> None:
    assert place_of("reports/cells/mlp_27_only/scale_0.25.html") is not None
    assert place_of("reports/cells/mlp_27_only/scale_1e+16.html") is not None
    assert place_of(f"archive/{'0' * 64}.parquet") is not None
    assert place_of(f"journal/{'0' * 64}/plan.json") is not None
    assert place_of(f"journal/{'0' * 64}/{'1' * 16}.parquet") is not None


def entry(path: str = "reports/a.html", **changes: Any) -> dict[str, Any]:
    return {"path": path, "size": 4, "sha256": hashlib.sha256(b"page").hexdigest()} | changes


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "twice": (lambda m: m["files"].extend([entry(), entry()]), "twice"),
    "twice but for its case": (lambda m: m["files"].extend([entry(), entry("reports/A.html")]), "twice"),
    "file and folder": (
        lambda m: m["files"].extend([entry("reports/a.html"), entry("reports/a.html/b.html")]),
        "as a file and as a folder",
    ),
    "negative size": (lambda m: m["files"].append(entry(size=-1)), "files"),
    "absurd size": (lambda m: m["files"].append(entry(size=2**62)), "more than such a file may have"),
    "huge size": (lambda m: m["files"].append(entry(size=10**4000)), "more than such a file may have"),
    "size as text": (lambda m: m["files"].append(entry(size="4")), "size"),
    "size as truth": (lambda m: m["files"].append(entry(size=True)), "size"),
    "wrong sum": (lambda m: m["files"].append(entry(sha256="0" * 64)), "is missing from the bundle"),
    "sum that is a path": (lambda m: m["files"].append(entry(sha256="../" * 21 + "x")), "sha256"),
    "sum with a line break": (lambda m: m["files"].append(entry(sha256="0" * 64 + "\n")), "sha256"),
    "another experiment": (lambda m: m.update(experiment="other"), "is of experiment 'other'"),
    "an experiment that is a path": (lambda m: m.update(experiment="../evil"), "experiment"),
    "newer format": (lambda m: m.update(format=2), "format 2, and this release knows 1; update"),
    "format as text": (lambda m: m.update(format="1"), "format"),
    "unknown key": (lambda m: m.update(evil=1), "evil"),
    "no files": (lambda m: m.pop("files"), "files"),
    "files that are no list": (lambda m: m.update(files={"a": 1}), "files"),
    "no origin": (lambda m: m.update(made=None), "made"),
    "endless host": (lambda m: m["made"].update(host="x" * 10_000), "made.host"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_is_not_sound(here: StoreLayout, tmp_path: Path, name: str) -> None:
    write_bundle(tmp_path / "bundles", {"experiment.yaml": DOCUMENT})
    content = manifest_of(tmp_path / "bundles")
    change, said = MANIFESTS[name]
    change(content)
    write_manifest(tmp_path / "bundles", content)
    message = refuse(here, tmp_path / "bundles")
    assert said in message
    assert len(message) < 1000


BYTES = {
    "empty": b"",
    "torn": b'{"format":1,"exper',
    "no JSON": b"\x00\xff\xfe",
    "no object": b"[]",
    "a number": b"1",
    "deep": b"[" * 100_000,
    "a key twice": b'{"format":1,"format":1}',
    "endless number": b'{"format":' + b"9" * 10_000 + b"}",
    "NaN": b'{"format":NaN}',
    "half a surrogate": b'{"experiment":"\\ud800"}',
    "altered": None,
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_manifest(here: StoreLayout, tmp_path: Path, name: str) -> None:
    write_bundle(tmp_path / "bundles", {"experiment.yaml": DOCUMENT})
    path = tmp_path / "bundles" / EXPERIMENT / "manifest.json"
    path.write_bytes(BYTES[name] if BYTES[name] is not None else path.read_bytes().replace(b"here", b"gone"))
    message = refuse(here, tmp_path / "bundles")
    assert "manifest" in message
    before = path.read_bytes()
    with pytest.raises(BundleError):
        send(here, str(tmp_path / "bundles"))
    assert path.read_bytes() == before  # nor is it pushed over


def test_a_size_that_is_not_that_of_the_object(here: StoreLayout, tmp_path: Path) -> None:
    for size in (3, 5):
        write_bundle(tmp_path / "bundles", {"experiment.yaml": DOCUMENT, "reports/a.html": b"page"})
        content = manifest_of(tmp_path / "bundles")
        content["files"][1]["size"] = size
        write_manifest(tmp_path / "bundles", content)
        assert "reports/a.html" in refuse(here, tmp_path / "bundles")


@pytest.mark.parametrize("kind", ["link", "link to a folder", "folder", "pipe"])
def test_an_object_that_is_no_plain_file(here: StoreLayout, tmp_path: Path, kind: str) -> None:
    write_bundle(tmp_path / "bundles", {"experiment.yaml": DOCUMENT, "reports/a.html": b"page"})
    name = hashlib.sha256(b"page").hexdigest()
    path = tmp_path / "bundles" / EXPERIMENT / "objects" / name[:2] / name
    path.unlink()
    if kind == "link":
        put(tmp_path / "elsewhere", b"page")
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "link to a folder":
        path.symlink_to(tmp_path)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert "is a link or no plain file" in refuse(here, tmp_path / "bundles")


def test_a_manifest_that_is_a_link(here: StoreLayout, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundles", {"experiment.yaml": DOCUMENT})
    path = tmp_path / "bundles" / EXPERIMENT / "manifest.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "is a link or no plain file" in refuse(here, tmp_path / "bundles")


def test_files_that_are_sound_and_not_what_their_name_says(here: StoreLayout, tmp_path: Path) -> None:
    theirs = new_store(tmp_path / "theirs" / EXPERIMENT)
    archive(theirs, ONE, keys(2, 2))
    work(theirs, TWO, keys(4, 2), size=3, n_chunks=1)
    one = theirs.archive_of(ONE.fingerprint).read_bytes()
    chunk = next(theirs.journal_of(TWO.fingerprint).glob("*.parquet"))
    plan = theirs.plan_of(TWO.fingerprint).read_bytes()
    name = TWO.fingerprint
    wrong = {
        "another condition's archive": {f"archive/{name}.parquet": one},
        "an archive that is no Parquet": {f"archive/{name}.parquet": b"PAR1 evil PAR1"},
        "an empty archive": {f"archive/{name}.parquet": b""},
        "a chunk as archive": {f"archive/{name}.parquet": chunk.read_bytes()},
        "a chunk under another name": {f"journal/{name}/{'0' * 16}.parquet": chunk.read_bytes()},
        "an archive as chunk": {f"journal/{name}/{chunk.stem}.parquet": one},
        "another condition's chunk": {f"journal/{ONE.fingerprint}/{chunk.stem}.parquet": chunk.read_bytes()},
        "another condition's plan": {f"journal/{ONE.fingerprint}/plan.json": plan},
        "an altered plan": {f"journal/{name}/plan.json": plan.replace(b"p000", b"p009")},
        "an endless plan": {f"journal/{name}/plan.json": b"[" * 100_000},
    }
    # A sound archive beside it is not taken either.
    other = condition(0.75)
    archive(theirs, other, keys(2, 2))
    sound = {f"archive/{other.fingerprint}.parquet": theirs.archive_of(other.fingerprint).read_bytes()}
    for what, contents in wrong.items():
        write_bundle(tmp_path / what, {"experiment.yaml": DOCUMENT, **sound, **contents})
        assert "cannot be used" in refuse(here, tmp_path / what), what


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"name: other\n", "is not that of 'tiny'"),
        (b"- a list\n", "must hold a mapping"),
        (b"name: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"name: !!python/object/apply:os.system ['touch evil']\n", "not valid YAML"),
        (b"name: tiny\nname: tiny\n", "not valid YAML"),
        (b"name: 2001-13-45\n", "not valid YAML"),
        (b"a: " + b"[" * 100_000, "not valid YAML"),
    ],
)
def test_an_experiment_file_that_is_not_its_own(here: StoreLayout, tmp_path: Path, document: bytes, said: str) -> None:
    write_bundle(tmp_path / "bundles", {"experiment.yaml": document, "reports/a.html": b"page"})
    assert said in refuse(here, tmp_path / "bundles")


def test_a_bundle_of_an_experiment_that_is_not_known_needs_a_file_that_can_be_used(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path / "home" / EXPERIMENT)
    for contents, said in (({"experiment.yaml": DOCUMENT}, "Field required"), ({}, "holds no experiment file")):
        write_bundle(tmp_path / "bundles", contents)
        location = open_location(str(tmp_path / "bundles"), EXPERIMENT)
        with pytest.raises(BundleError, match=said):
            pull(layout, location, experiment=EXPERIMENT, known=False)
        assert files(layout) == {}
        assert not (layout.root / "tiny.yaml").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {
        "path": st.sampled_from(["reports/a.html", "experiment.yaml", "../evil.html", f"archive/{'0' * 64}.parquet"])
        | st.text(max_size=40)
        | JSON,
        "size": st.integers() | JSON,
        "sha256": st.sampled_from(["0" * 64, hashlib.sha256(b"page").hexdigest()]) | JSON,
    }
)
DOCUMENTS = st.fixed_dictionaries(
    {
        "format": st.just(1) | JSON,
        "experiment": st.just(EXPERIMENT) | JSON,
        "made": st.just({"host": "h", "at": "t", "versions": {}, "commit": "c"}) | JSON,
        "files": st.lists(ENTRIES, max_size=5) | JSON,
    },
    optional={"evil": JSON},
)


@given(document=DOCUMENTS | JSON, checked=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_manifest_is_read_or_refused(document: Any, checked: bool) -> None:
    from backtracking_assets.conditions import canonical_json, digest

    if checked and isinstance(document, dict):
        document = {**document, "sha256": digest(document)}
    try:
        found = read_manifest(canonical_json(document).encode(), experiment=EXPERIMENT, where="there")
    except BundleError as refused:
        assert "\n" not in str(refused)
        assert len(str(refused)) < 1000
    else:
        assert found.experiment == EXPERIMENT
        assert all(place_of(e.path) is not None for e in found.files)


@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(BundleError):
        read_manifest(content, experiment=EXPERIMENT, where="there")


@given(path=st.text(alphabet="./\\:ae\0 ", max_size=12).map(lambda text: f"reports/{text}.html") | st.text(max_size=60))
@settings(max_examples=500, deadline=None)
def test_no_path_leaves_the_store(path: str) -> None:
    if place_of(path) is not None:
        root = Path("/store")
        assert Path(os.path.normpath(root / path)) == root / path
        assert (root / path).is_relative_to(root)
        assert not any(step.startswith(".") for step in path.split("/"))


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_bit_anywhere_is_found(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int) -> None:
    folder = tmp_path_factory.mktemp("bit")
    theirs = new_store(folder / "theirs" / EXPERIMENT)
    archive(theirs, ONE, keys(1, 1))
    page(theirs, "a.html", "page")
    send(theirs, str(folder / "bundles"))
    paths = sorted(path for path in (folder / "bundles").rglob("*") if path.is_file())
    offsets = [(path, offset) for path in paths for offset in range(path.stat().st_size)]
    path, offset = offsets[position * 7919 % len(offsets)]
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)
    layout = StoreLayout(folder / "mine" / EXPERIMENT)
    with pytest.raises(BundleError):
        receive(layout, str(folder / "bundles"))
    assert files(layout) == {}
