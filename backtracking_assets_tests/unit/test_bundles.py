"""Pushing and pulling between two stores, through a folder and through S3."""

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backtracking_assets.errors import BundleError
from backtracking_assets.storage.archive import compact, read_archive
from backtracking_assets.storage.bundles.location import Location, open_location
from backtracking_assets.storage.bundles.manifest import read_manifest
from backtracking_assets.storage.journal import plan_chunks, read_plan
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.locks import generation_lock
from backtracking_assets.storage.rows import keys_of
from backtracking_assets_tests.s3_server import BUCKET, s3_server
from backtracking_assets_tests.unit.bundle_samples import (
    EXPERIMENT,
    archive,
    document,
    files,
    held,
    new_store,
    page,
    receive,
    send,
    work,
)
from backtracking_assets_tests.unit.storage_samples import condition, keys

ONE, TWO, THREE = condition(0.0), condition(0.5), condition(1.0)


@pytest.fixture(scope="module")
def s3() -> Iterator[Callable[[], str]]:
    with s3_server():
        yield lambda: f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for bundles: a folder, or S3 where a test asks for both."""
    return request.getfixturevalue("s3")() if getattr(request, "param", "folder") == "s3" else str(tmp_path / "bundles")


in_both_places = pytest.mark.parametrize("url", ["folder", "s3"], indirect=True)


@pytest.fixture
def store(tmp_path: Path) -> StoreLayout:
    """Two archived conditions, one unfinished, two pages."""
    layout = new_store(tmp_path / "here" / EXPERIMENT)
    archive(layout, ONE, keys(4, 2))
    archive(layout, TWO, keys(4, 2))
    work(layout, THREE, keys(6, 2), n_chunks=2)
    page(layout, "phase2_report.html", "<p>all</p>")
    page(layout, "cells/mlp_27_only/scale_0.5.html", "<p>one</p>")
    return layout


@pytest.fixture
def other(tmp_path: Path) -> StoreLayout:
    return StoreLayout(tmp_path / "there" / EXPERIMENT)


@in_both_places
def test_what_is_pushed_is_pulled(store: StoreLayout, other: StoreLayout, url: str) -> None:
    pushed = send(store, url)
    assert (pushed.files, pushed.sent, pushed.changed) == (8, 8, True)
    assert pushed.sent_bytes == pushed.size
    assert pushed.by_checksum + pushed.by_reading == 8
    assert pushed.by_checksum == (8 if url.startswith("s3") else 0)
    assert pushed.notes == ()
    pulled = receive(other, url)
    assert files(other) == files(store)
    assert (pulled.fetched, pulled.fetched_bytes) == (8, pushed.size)
    assert (pulled.conditions, pulled.completions, pulled.pages) == (3, 24, 2)
    assert pulled.skipped == pulled.notes == []
    assert (other.pulled / "experiment.yaml").read_bytes() == document(store.root.parent).read_bytes()
    assert not other.incoming.exists()


@in_both_places
def test_only_what_is_missing_travels(store: StoreLayout, other: StoreLayout, url: str) -> None:
    first = send(store, url)
    again = send(store, url)
    assert (again.sent, again.sent_bytes, again.changed, again.by_size) == (0, 0, False, first.files)
    receive(other, url)
    nothing = receive(other, url)
    assert (nothing.fetched, nothing.conditions, nothing.completions, nothing.pages) == (0, 0, 0, 0)
    page(store, "phase2_report.html", "<p>all, and more</p>")
    work(store, THREE, keys(6, 2), n_chunks=3)
    more = send(store, url)
    assert more.sent == 2
    pulled = receive(other, url)
    assert (pulled.fetched, pulled.fetched_bytes, pulled.completions, pulled.pages) == (2, more.sent_bytes, 4, 1)
    assert files(other) == files(store)


@in_both_places
def test_a_condition_moves_from_journal_to_archive(store: StoreLayout, other: StoreLayout, url: str) -> None:
    send(store, url)
    receive(other, url)
    archive(store, THREE, keys(6, 2))
    send(store, url)
    location = open_location(url, EXPERIMENT)
    manifest = read_manifest(location.read_manifest() or b"", experiment=EXPERIMENT, where="")
    assert not [path for path in manifest.by_path if path.startswith("journal/")]
    pulled = receive(other, url)
    assert (pulled.fetched, pulled.completions) == (1, 4)
    assert held(other) == held(store)
    # The journal stays until a sweep has seen that the database holds the archive.
    assert other.plan_of(THREE.fingerprint).exists()
    compact(other, THREE)
    assert read_archive(other, THREE.fingerprint) == read_archive(store, THREE.fingerprint)


def test_an_older_bundle_keeps_its_objects(store: StoreLayout, tmp_path: Path) -> None:
    url = str(tmp_path / "bundles")
    send(store, url)
    old = (tmp_path / "bundles" / EXPERIMENT / "manifest.json").read_bytes()
    page(store, "phase2_report.html", "<p>changed</p>")
    archive(store, THREE, keys(6, 2))
    send(store, url)
    location = open_location(url, EXPERIMENT)
    there = location.objects()
    for entry in read_manifest(old, experiment=EXPERIMENT, where="").files:
        assert there[entry.sha256]["size"] == entry.size
        content = (tmp_path / "bundles" / EXPERIMENT / "objects" / entry.sha256[:2] / entry.sha256).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry.sha256


@in_both_places
def test_two_stores_that_push_to_one_place_both_have_everything(
    store: StoreLayout, other: StoreLayout, url: str
) -> None:
    send(store, url)
    other.prepare()
    more = condition(0.25)
    archive(other, more, keys(2, 2))
    send(other, url)
    assert receive(store, url).completions == 4
    assert receive(other, url).completions == 24
    assert held(store) == held(other)
    assert set(held(store)) == {of.fingerprint for of in (ONE, TWO, THREE, more)}


def test_keys_of_both_sides_are_united_and_rows_that_are_here_stay(
    store: StoreLayout, other: StoreLayout, url: str
) -> None:
    send(store, url)
    other.prepare()
    archive(other, ONE, keys(6, 1), run_id="run-of-the-other")
    pulled = receive(other, url)
    assert pulled.completions == 4 + 8 + 8
    table = read_archive(other, ONE.fingerprint)
    assert table.num_rows == 4 * 2 + 2
    runs = dict(zip(keys_of(table), table["run_id"].to_pylist(), strict=True))
    assert {key for key, run in runs.items() if run == "run-of-the-other"} == set(keys(6, 1))


def test_a_push_that_would_lose_completions_is_refused(store: StoreLayout, other: StoreLayout, url: str) -> None:
    send(store, url)
    other.prepare()
    archive(other, ONE, keys(6, 1))
    with pytest.raises(BundleError, match=r"holds 4 completions that this store does not have.*pull first"):
        send(other, url)
    receive(other, url)
    assert send(other, url).changed
    assert receive(store, url).completions == 2
    assert held(store) == held(other)


@pytest.mark.parametrize("local", ["archived", "unfinished"])
def test_other_completions_of_the_same_key_are_refused_with_the_key(
    store: StoreLayout, other: StoreLayout, url: str, local: str
) -> None:
    send(store, url)
    other.prepare()
    do = archive if local == "archived" else work
    do(other, ONE, keys(1, 2), text="something else")
    before = files(other)
    with pytest.raises(BundleError, match=r"two different completions of problem p000, sample 0 .* nothing was overw"):
        receive(other, url)
    assert files(other) == before
    if local == "archived":
        with pytest.raises(BundleError, match=r"two different completions of problem p000, sample 0"):
            send(other, url)


def test_chunks_of_the_same_plan_are_taken(store: StoreLayout, other: StoreLayout, url: str) -> None:
    send(store, url)
    other.prepare()
    planned = plan_chunks(other, THREE.fingerprint, keys(6, 2), (), 4)
    work(other, THREE, keys(6, 2), n_chunks=1)
    pulled = receive(other, url)
    assert pulled.completions == 16 + 4
    assert read_plan(other.plan_of(THREE.fingerprint), THREE.fingerprint) == planned
    assert len(held(other)[THREE.fingerprint]) == 8


def test_a_longer_plan_is_taken_with_its_chunks(store: StoreLayout, other: StoreLayout, url: str) -> None:
    other.prepare()
    plan_chunks(other, THREE.fingerprint, keys(4, 2), (), 4)
    work(store, THREE, keys(6, 2))
    send(store, url)
    receive(other, url)
    assert read_plan(other.plan_of(THREE.fingerprint), THREE.fingerprint) == read_plan(
        store.plan_of(THREE.fingerprint), THREE.fingerprint
    )
    assert len(held(other)[THREE.fingerprint]) == 12


def test_chunks_of_another_plan_are_left_out_with_a_sentence(store: StoreLayout, other: StoreLayout, url: str) -> None:
    send(store, url)
    other.prepare()
    work(other, THREE, keys(6, 2), size=6, n_chunks=1)
    pulled = receive(other, url)
    assert pulled.completions == 16
    assert len(pulled.notes) == 1
    assert "planned in other chunks; 2 finished chunks of the bundle were not taken" in pulled.notes[0]
    assert len(held(other)[THREE.fingerprint]) == 6
    # Nor does this store's journal replace the bundle's.
    pushed = send(other, url)
    assert "its chunks stay here and travel once they are archived" in pushed.notes[0]
    third = StoreLayout(other.root.parent / "third")
    receive(third, url)
    assert len(held(third)[THREE.fingerprint]) == 8
    # What is archived travels, whatever it was planned in.
    archive(other, THREE, keys(6, 2), size=6)
    send(other, url)
    receive(third, url)
    assert len(held(third)[THREE.fingerprint]) == 12


def test_an_archive_that_cuts_through_a_planned_chunk(store: StoreLayout, other: StoreLayout, url: str) -> None:
    """Completions that came by a pull are not generated again; the rest of their chunk is planned anew."""
    other.prepare()
    work(other, ONE, keys(6, 2), size=6, n_chunks=0)
    send(store, url)
    receive(other, url)
    present = held(other)[ONE.fingerprint]
    chunks = plan_chunks(other, ONE.fingerprint, keys(6, 2), present, 6)
    assert {key for chunk in chunks for key in chunk.keys} == set(keys(6, 2)) - present


def test_a_condition_that_another_process_generates_is_left_out(
    store: StoreLayout, other: StoreLayout, url: str
) -> None:
    send(store, url)
    other.prepare()
    with generation_lock(other, ONE.fingerprint):
        pulled = receive(other, url)
    assert len(pulled.skipped) == 1
    assert f"{ONE.fingerprint[:12]} is being generated by another process and was left out" in pulled.skipped[0]
    assert pulled.conditions == 2
    assert ONE.fingerprint not in held(other)
    assert receive(other, url).conditions == 1
    assert held(other) == held(store)


def test_a_damaged_archive_here_is_set_aside_and_replaced(store: StoreLayout, other: StoreLayout, url: str) -> None:
    send(store, url)
    receive(other, url)
    damaged = other.archive_of(ONE.fingerprint)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    pulled = receive(other, url)
    assert (pulled.fetched, pulled.conditions, pulled.completions) == (1, 1, 8)
    assert held(other) == held(store)
    assert len(list(other.set_aside.glob("*.parquet"))) == 1


def test_a_damaged_archive_is_not_pushed_over_a_sound_one(store: StoreLayout, other: StoreLayout, url: str) -> None:
    send(store, url)
    before = store.archive_of(ONE.fingerprint).read_bytes()
    store.archive_of(ONE.fingerprint).write_bytes(before[:-100])
    pushed = send(store, url)
    assert len(pushed.notes) == 1
    assert "was left out" in pushed.notes[0]
    receive(other, url)
    assert other.archive_of(ONE.fingerprint).read_bytes() == before


def test_a_page_that_was_made_here_stays(store: StoreLayout, other: StoreLayout, url: str) -> None:
    send(store, url)
    receive(other, url)
    mine = page(other, "phase2_report.html", "<p>mine</p>")
    page(store, "phase2_report.html", "<p>theirs</p>")
    page(store, "cells/mlp_27_only/scale_0.5.html", "<p>theirs too</p>")
    send(store, url)
    assert receive(other, url).pages == 1
    assert mine.read_text() == "<p>mine</p>"
    assert (other.reports / "cells/mlp_27_only/scale_0.5.html").read_text() == "<p>theirs too</p>"


def test_a_lost_or_damaged_object_is_named(store: StoreLayout, other: StoreLayout, tmp_path: Path) -> None:
    url = str(tmp_path / "bundles")
    send(store, url)
    name = hashlib.sha256(store.archive_of(ONE.fingerprint).read_bytes()).hexdigest()
    path = tmp_path / "bundles" / EXPERIMENT / "objects" / name[:2] / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    with pytest.raises(BundleError, match=rf"archive/{ONE.fingerprint}.parquet is damaged or altered"):
        receive(other, url)
    assert files(other) == {}
    path.unlink()
    with pytest.raises(BundleError, match=rf"archive/{ONE.fingerprint}.parquet is missing from the bundle"):
        receive(other, url)
    send(store, url)
    receive(other, url)
    assert files(other) == files(store)


@in_both_places
def test_an_object_that_is_not_what_its_name_says_is_sent_again(
    store: StoreLayout, other: StoreLayout, url: str
) -> None:
    """As a push leaves it that was cut off at a place that stores in pieces."""
    location = open_location(url, EXPERIMENT)
    content = store.archive_of(ONE.fingerprint).read_bytes()
    location.put_object(hashlib.sha256(content).hexdigest(), b"x" * len(content))
    assert send(store, url).sent == 8
    receive(other, url)
    assert files(other) == files(store)


def test_where_a_push_of_another_was_quicker_both_are_kept(
    store: StoreLayout, other: StoreLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "bundles")
    other.prepare()
    more = condition(0.25)
    archive(other, more, keys(2, 2))
    put_object = Location.put_object
    raced = []

    def put_and_race(self: Location, sha256: str, content: bytes) -> None:
        if not raced:
            raced.append(True)
            send(other, url)
        put_object(self, sha256, content)

    monkeypatch.setattr(Location, "put_object", put_and_race)
    send(store, url)
    third = StoreLayout(tmp_path / "third" / EXPERIMENT)
    receive(third, url)
    assert set(held(third)) == {of.fingerprint for of in (ONE, TWO, THREE, more)}


def test_a_store_without_results_is_a_bundle_too(other: StoreLayout, url: str, tmp_path: Path) -> None:
    empty = new_store(tmp_path / "empty" / EXPERIMENT)
    assert send(empty, url).files == 1
    assert receive(other, url).conditions == 0


@in_both_places
def test_a_place_without_a_bundle_is_named(other: StoreLayout, url: str) -> None:
    with pytest.raises(BundleError, match=r"There is no bundle of 'tiny' at .*; check the URL"):
        receive(other, url)
    assert not other.root.exists()


def test_more_than_the_disk_holds_is_refused(
    store: StoreLayout, other: StoreLayout, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(store, url)
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("backtracking_assets.storage.bundles.pull.shutil.disk_usage", lambda path: usage)
    with pytest.raises(BundleError, match=r"GiB are missing here.*free some space"):
        receive(other, url)
    assert files(other) == {}
