"""Making the database anew: what stood there is kept, the new one is whole or not there, nothing is lost."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from backtracking_assets.errors import StorageError
from backtracking_assets.storage import queries
from backtracking_assets.storage.database import UnusableDatabaseError, reading, writing
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.locks import database_lock, generation_lock
from backtracking_assets.storage.rebuilding import commit_archives, rebuilding
from backtracking_assets_tests.unit.storage_samples import condition, generate, keys

ABLATED, BASELINE = condition(scale=0.0), condition()


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    """A store with two conditions."""
    layout = StoreLayout(tmp_path / "store")
    generate(layout, BASELINE, keys(3, 2))
    generate(layout, ABLATED, keys(2, 2))
    return layout


def rebuild(layout: StoreLayout, wait: float = 30):
    with rebuilding(layout, wait=wait) as new:
        return commit_archives(new, run_id="rebuilt")


def counts(layout: StoreLayout) -> dict[str, int]:
    return queries.completion_counts(layout)


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def flip(place: int) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place : place + 64] = b"x" * 64
        path.write_bytes(content)

    return change


def another_program(path: Path) -> None:
    path.unlink()
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table theirs (a integer)")


def sqlite(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("create table theirs (a integer)")
    connection.commit()
    connection.close()


def version(number: int) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        with duckdb.connect(str(path)) as connection:
            connection.execute("update schema_version set version = ?", [number])

    return change


def python(script: str) -> int:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, timeout=300).returncode


def killed_writer(path: Path, *, flipped: bool) -> None:
    """Leave a write-ahead log, as a writer does that is killed after its commit."""
    script = f"""
        import duckdb, os, signal
        connection = duckdb.connect({str(path)!r})
        connection.execute("set checkpoint_threshold = '1GB'")
        for n in range(50):
            connection.execute("insert into settings values (?, 'statistics', '')", [f"subset number {{n}}"])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert python(script) == -signal.SIGKILL
    log = path.with_name(f"{path.name}.wal")
    if flipped:
        flip(log.read_bytes().index(b"subset number 25"))(log)


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (write(b""), "is empty"),
    "text": (write(b"notes\n" * 1000), "is no DuckDB file"),
    "a few bytes": (write(b"x"), "is no DuckDB file"),
    "SQLite": (sqlite, "is no DuckDB file"),
    "torn header": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "cannot be opened.*Could not read enough"),
    "flipped header": (flip(4096 + 20), "cannot be opened.*checksum"),
    "flipped catalog": (flip(12288 + 100), "cannot be opened.*checksum"),
    "another program's": (another_program, "did not make"),
    "newer": (version(99), "schema version 99.*update backtracking_assets, or"),
    "older": (version(0), "schema version 0"),
    "flipped log": (lambda path: killed_writer(path, flipped=True), "replaying WAL"),
}


@pytest.mark.parametrize(("damage", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_database_is_left_as_it_is_and_made_anew_on_demand(
    layout: StoreLayout, damage: Callable[[Path], object], said: str
) -> None:
    expected = counts(layout)
    damage(layout.database)
    content = layout.database.read_bytes()
    log = layout.database_log.read_bytes() if layout.database_log.exists() else None
    for opened in (reading, writing):
        with pytest.raises(UnusableDatabaseError, match=f"(?s){said}.*backtracking rebuild-database"), opened(layout):
            pytest.fail("opened")
    assert layout.database.read_bytes() == content
    rebuild(layout)
    assert counts(layout) == expected
    assert (layout.set_aside / "backtracking.duckdb").read_bytes() == content
    assert "rebuild-database" in (layout.set_aside / "backtracking.duckdb.reason.txt").read_text(encoding="utf-8")
    if log is not None:
        assert (layout.set_aside / "backtracking.duckdb.wal").read_bytes() == log
    assert {path.name for path in layout.root.iterdir() if path.is_file()} == {"backtracking.duckdb"}
    with writing(layout) as connection:
        connection.execute("select 1")


def test_a_torn_database_that_can_be_opened_says_so_when_it_is_read(layout: StoreLayout) -> None:
    with writing(layout) as connection:  # digests, which do not compress
        connection.execute(
            "insert into layer_subsets (layer_subset, kind, components, digest) "
            "select n, 'components', [], sha256(n::varchar) from range(100000) as r(n)"
        )
    content = layout.database.read_bytes()
    torn = content[: len(content) // 2]
    layout.database.write_bytes(torn)
    with pytest.raises(UnusableDatabaseError, match=r"(?s)damaged.*backtracking rebuild-database"):
        queries.layer_subsets(layout)
    assert layout.database.read_bytes() == torn


def test_a_sound_log_is_read_with_its_database_and_both_are_kept(layout: StoreLayout) -> None:
    killed_writer(layout.database, flipped=False)
    content, log = layout.database.read_bytes(), layout.database_log.read_bytes()
    rebuild(layout)
    assert queries.layer_subsets(layout).num_rows == 0
    assert (layout.set_aside / "backtracking.duckdb").read_bytes() == content
    assert (layout.set_aside / "backtracking.duckdb.wal").read_bytes() == log
    assert not layout.database_log.exists()


def test_a_database_that_is_gone_is_made_anew(layout: StoreLayout) -> None:
    expected = counts(layout)
    layout.database.unlink()
    layout.database_log.write_bytes(b"left")
    rebuild(layout)
    assert counts(layout) == expected
    assert (layout.set_aside / "backtracking.duckdb.wal").read_bytes() == b"left"


def test_rows_say_who_restored_them_and_a_second_commit_changes_nothing(layout: StoreLayout) -> None:
    done = rebuild(layout)
    assert done.completions == {BASELINE.fingerprint: 6, ABLATED.fingerprint: 4}
    assert queries.conditions(layout)["run_id"].unique().to_pylist() == ["rebuilt"]
    assert queries.completions(layout, BASELINE.fingerprint)["run_id"].unique().to_pylist() == ["run-1"]
    again = commit_archives(layout, run_id="again")
    assert again.completions == {}
    assert sorted(again.unchanged) == sorted(done.completions)


def test_a_damaged_archive_is_set_aside_and_the_others_are_committed(layout: StoreLayout) -> None:
    damaged = layout.archive_of(ABLATED.fingerprint)
    flip(64)(damaged)  # in the first page of values
    content = damaged.read_bytes()
    done = rebuild(layout)
    assert set(done.damaged) == {ABLATED.fingerprint}
    assert counts(layout) == {BASELINE.fingerprint: 6}
    assert (layout.set_aside / f"archive-{damaged.name}").read_bytes() == content
    assert not damaged.exists()


def test_the_archive_of_a_condition_at_work_is_not_set_aside(layout: StoreLayout) -> None:
    damaged = layout.archive_of(ABLATED.fingerprint)
    damaged.write_bytes(b"torn")
    before = layout.database.read_bytes()
    with generation_lock(layout, ABLATED.fingerprint), pytest.raises(StorageError, match="in use by process"):
        rebuild(layout)
    assert damaged.read_bytes() == b"torn"
    assert layout.database.read_bytes() == before
    assert not (layout.root / ".rebuilding.duckdb").exists()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_that_another_process_has_open_is_not_replaced(layout: StoreLayout, read_only: bool) -> None:
    script = f"""
        import sys, duckdb
        connection = duckdb.connect({str(layout.database)!r}, read_only={read_only})
        print("held", flush=True)
        sys.stdin.read()
    """
    notebook = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert notebook.stdout is not None
    assert notebook.stdout.readline() == "held\n"
    before = layout.database.read_bytes()
    try:
        with pytest.raises(StorageError, match=f"held by process {notebook.pid}"):
            rebuild(layout)
    finally:
        notebook.kill()
        notebook.communicate()
    assert layout.database.read_bytes() == before
    assert list(layout.set_aside.iterdir()) == []
    assert rebuild(layout).completions


def test_a_writer_of_this_project_is_waited_for_and_named(layout: StoreLayout) -> None:
    with database_lock(layout), pytest.raises(StorageError, match=f"in use by process {os.getpid()} on "):
        rebuild(layout, wait=0.1)


def rebuild_and_fail(layout: StoreLayout) -> None:
    with rebuilding(layout) as new:
        commit_archives(new, run_id="rebuilt")
        raise RuntimeError


def test_a_rebuild_that_fails_leaves_the_old_database(layout: StoreLayout) -> None:
    write(b"damaged")(layout.database)
    with pytest.raises(RuntimeError):
        rebuild_and_fail(layout)
    assert layout.database.read_bytes() == b"damaged"
    assert {path.name for path in layout.root.iterdir() if path.is_file()} == {"backtracking.duckdb"}
    assert list(layout.set_aside.iterdir()) == []


@pytest.mark.parametrize("where", ["in the block", "before it is put in place"])
def test_a_rebuild_that_is_killed_leaves_the_old_database_and_the_next_one_succeeds(
    layout: StoreLayout, where: str
) -> None:
    expected = counts(layout)
    before = layout.database.read_bytes()
    script = f"""
        import os, signal
        from pathlib import Path
        from backtracking_assets.storage import rebuilding
        from backtracking_assets.storage.layout import StoreLayout
        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)
        if {where != "in the block"}:
            Path.replace = die
        with rebuilding.rebuilding(StoreLayout(Path({str(layout.root)!r}))) as new:
            rebuilding.commit_archives(new, run_id="rebuilt")
            if {where == "in the block"}:
                die()
    """
    assert python(script) == -signal.SIGKILL
    assert layout.database.read_bytes() == before
    assert counts(layout) == expected
    rebuild(layout)
    assert counts(layout) == expected
    assert queries.conditions(layout)["run_id"].unique().to_pylist() == ["rebuilt"]
    assert {path.name for path in layout.root.iterdir() if path.is_file()} == {"backtracking.duckdb"}
