"""Push and pull killed at every point at which they change anything, and a push beside a process that generates."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from backtracking_assets.storage.archive import compact
from backtracking_assets.storage.bundles.location import Location
from backtracking_assets.storage.journal import clear_journal, finish_chunk, plan_chunks
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import Key
from backtracking_assets_tests.integration.processes import finish, replace_environment, start
from backtracking_assets_tests.s3_server import BUCKET, s3_server
from backtracking_assets_tests.unit.bundle_samples import (
    EXPERIMENT,
    archive,
    files,
    held,
    new_store,
    page,
    receive,
    send,
    work,
)
from backtracking_assets_tests.unit.storage_samples import completions_of, condition, keys

ONE, TWO, THREE = condition(0.0), condition(0.5), condition(1.0)
KILLED = -signal.SIGKILL
MOST_STEPS = 60


class TornFileSystem(LocalFileSystem):
    """A place that stores what it is sent piece by piece, under its final name."""

    protocol = ("torn",)
    dies_at: int | None = None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.dies_at is not None:
            self.dies_at -= 1
            if self.dies_at < 0:
                with target.open("wb", buffering=0) as file:
                    file.write(value[: len(value) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        target.write_bytes(value)


def torn_place(folder: Path, dies_at: int | None = None) -> Location:
    filesystem = TornFileSystem(skip_instance_cache=True)
    filesystem.dies_at = dies_at
    return Location(filesystem, f"{folder}/{EXPERIMENT}", str(folder))


def die_before_rename(n: int) -> None:
    """Have this process killed before it puts its n-th file in place, counted from 0; the temporary file is whole."""
    replace = Path.replace
    done = 0

    def counted(self: Path, target: str | os.PathLike[str]) -> Path:
        nonlocal done
        if done == n:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return replace(self, target)

    Path.replace = counted


def push_and_die(root: Path, place: str, n: int) -> None:
    die_before_rename(n)
    send(StoreLayout(root), place)


def push_torn_and_die(root: Path, folder: Path, n: int) -> None:
    send(StoreLayout(root), torn_place(folder, dies_at=n))


def push_to_s3_and_die(root: Path, place: str, environment: dict[str, str], n: int) -> None:
    import s3fs

    replace_environment({**os.environ, **environment})
    pipe_file = s3fs.S3FileSystem.pipe_file
    done = []

    def counted(self: Any, *arguments: Any, **options: Any) -> None:
        done.append(None)
        if len(done) > n:
            os.kill(os.getpid(), signal.SIGKILL)
        pipe_file(self, *arguments, **options)

    s3fs.S3FileSystem.pipe_file = counted
    send(StoreLayout(root), place)


def pull_and_die(root: Path, place: str, n: int) -> None:
    die_before_rename(n)
    receive(StoreLayout(root), place)


@pytest.fixture
def store(tmp_path: Path) -> StoreLayout:
    """A store with one archived condition."""
    layout = new_store(tmp_path / "here" / EXPERIMENT)
    archive(layout, ONE, keys(4, 2))
    page(layout, "phase2_report.html", "<p>one</p>")
    return layout


def go_on(store: StoreLayout) -> None:
    """What a sweep adds to it: a grown and a new archive, a journal, another page."""
    archive(store, ONE, keys(5, 2), present=keys(4, 2))
    archive(store, TWO, keys(4, 2))
    work(store, THREE, keys(6, 2), n_chunks=2)
    page(store, "phase2_report.html", "<p>all</p>")


def pulled(place: str | Location, root: Path) -> dict[str, bytes]:
    layout = StoreLayout(root / EXPERIMENT)
    receive(layout, place)
    return files(layout)


def steps(start_step: Any) -> Iterator[int]:
    """The steps at which a process was killed, until one ends by itself."""
    for n in range(MOST_STEPS):
        code = finish(start_step(n))
        if code == 0:
            assert n > 1
            return
        assert code == KILLED
        yield n
    raise AssertionError("no process ended by itself")


def test_a_killed_push_leaves_the_earlier_bundle_or_the_new_one(store: StoreLayout, tmp_path: Path) -> None:
    send(store, str(tmp_path / "earlier"))
    earlier = files(store)
    go_on(store)
    new = files(store)

    def killed(n: int) -> Any:
        shutil.copytree(tmp_path / "earlier", tmp_path / f"bundles{n}")
        return start(push_and_die, store.root, str(tmp_path / f"bundles{n}"), n)

    outcomes = []
    for n in steps(killed):
        place = str(tmp_path / f"bundles{n}")
        found = pulled(place, tmp_path / f"before{n}")
        outcomes.append(found == new)
        assert found in (earlier, new)
        sent = send(store, place).sent
        # What was there by then is not sent again. The first file in place is the earlier archive, fetched to compare.
        assert sent == len(new) - max(n - 1, 0)
        assert pulled(place, tmp_path / f"after{n}") == new
        assert not list(Path(place).rglob("*.tmp"))
    assert outcomes == [False] * len(outcomes)  # the manifest is the last file of all


def test_a_push_that_leaves_half_an_object_is_made_up_for(store: StoreLayout, tmp_path: Path) -> None:
    send(store, torn_place(tmp_path / "earlier"))
    earlier = files(store)
    go_on(store)
    new = files(store)
    n_objects = len(new)  # the manifest is stored in one piece wherever bundles lie

    def killed(n: int) -> Any:
        shutil.copytree(tmp_path / "earlier", tmp_path / f"bundles{n}")
        return start(push_torn_and_die, store.root, tmp_path / f"bundles{n}", min(n, n_objects + 1))

    for n in steps(killed):
        place = torn_place(tmp_path / f"bundles{n}")
        if n < n_objects:
            assert pulled(place, tmp_path / f"before{n}") == earlier
            send(store, place)
            assert pulled(place, tmp_path / f"after{n}") == new


def test_a_killed_push_to_s3(store: StoreLayout, tmp_path: Path) -> None:
    with s3_server() as environment:
        for n in (0, 3, 100):
            place = f"s3://{BUCKET}/killed/{n}"
            first = StoreLayout(tmp_path / f"here{n}" / EXPERIMENT)
            shutil.copytree(store.root.parent, first.root.parent)
            send(first, place)
            earlier = files(first)
            go_on(first)
            new = files(first)
            code = finish(start(push_to_s3_and_die, first.root, place, environment, n))
            assert code == (0 if n == 100 else KILLED)
            assert pulled(place, tmp_path / f"before{n}") == (new if n == 100 else earlier)
            send(first, place)
            assert pulled(place, tmp_path / f"after{n}") == new


def test_a_killed_pull_leaves_a_whole_store(store: StoreLayout, tmp_path: Path) -> None:
    go_on(store)
    place = str(tmp_path / "bundles")
    send(store, place)
    start_root = tmp_path / "start" / EXPERIMENT
    archive(new_store(start_root), ONE, keys(6, 1), run_id="mine")
    plan_chunks(StoreLayout(start_root), THREE.fingerprint, keys(4, 2), (), 4)
    at_first = held(StoreLayout(start_root))

    def copied(name: str) -> StoreLayout:
        return StoreLayout(Path(shutil.copytree(start_root, tmp_path / name / EXPERIMENT)))

    uninterrupted = copied("uninterrupted")
    receive(uninterrupted, place)
    in_the_end = held(uninterrupted)
    for n in steps(lambda n: start(pull_and_die, copied(f"killed{n}").root, place, n)):
        layout = StoreLayout(tmp_path / f"killed{n}" / EXPERIMENT)
        now = held(layout)  # every file is read and checked
        for fingerprint, had in at_first.items():
            assert now[fingerprint] >= had
        for fingerprint, has in now.items():
            assert has <= in_the_end[fingerprint]
        for path in layout.journal.glob("*/*.parquet"):
            assert (path.parent / "plan.json").exists()
        receive(layout, place)
        assert files(layout) == files(uninterrupted)
        assert not layout.incoming.exists()


def generate(root: Path, log: Path, n_conditions: int) -> None:
    """Generate conditions chunk by chunk, archive and clear each, and note each chunk once it is durable."""
    layout = StoreLayout(root)
    for seed in range(n_conditions):
        of = condition(0.0, seed=seed)
        for chunk in plan_chunks(layout, of.fingerprint, keys(4, 2), (), 2):
            finish_chunk(layout, of.fingerprint, chunk, completions_of(of.fingerprint, chunk))
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{of.fingerprint} {chunk.keys[0][0]} {chunk.keys[0][1]}\n")
        compact(layout, of)
        clear_journal(layout, of.fingerprint)


def test_a_push_beside_a_process_that_generates_is_consistent(tmp_path: Path) -> None:
    layout = new_store(tmp_path / "here" / EXPERIMENT)
    log = tmp_path / "log"
    log.touch()
    process = start(generate, layout.root, log, 30)
    place = str(tmp_path / "bundles")
    found: dict[str, set[Key]] = {}
    n_pushes = 0
    deadline = time.monotonic() + 200
    running = True
    while running:
        assert time.monotonic() < deadline
        running = process.is_alive()
        durable = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
        pushed = send(layout, place)
        assert pushed.notes == ()
        n_pushes += 1
        there = StoreLayout(tmp_path / f"there{n_pushes}" / EXPERIMENT)
        receive(there, place)
        found = held(there)
        for fingerprint, problem_id, sample_id in durable:
            assert (problem_id, int(sample_id)) in found[fingerprint]
    assert finish(process) == 0
    assert n_pushes > 2
    assert {name: len(has) for name, has in found.items()} == {
        condition(0.0, seed=seed).fingerprint: 8 for seed in range(30)
    }
    assert not list((tmp_path / f"there{n_pushes}" / EXPERIMENT / "journal").glob("*/*.parquet"))
