"""Locks between processes: waiting, giving up with the holder's name, and a holder that is killed."""

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backtracking_assets.errors import StorageError
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.locks import database_lock, generation_lock

FINGERPRINT = "a" * 64


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    layout = StoreLayout(tmp_path)
    layout.prepare()
    return layout


@contextmanager
def holder(layout: StoreLayout) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the generation lock until its input ends."""
    script = f"""
        import sys
        from pathlib import Path
        from backtracking_assets.storage.layout import StoreLayout
        from backtracking_assets.storage.locks import generation_lock
        with generation_lock(StoreLayout(Path({str(layout.root)!r})), {FINGERPRINT!r}):
            print("held", flush=True)
            sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_giving_up_names_the_holder_and_waiting_is_reported(layout: StoreLayout) -> None:
    waits: list[float] = []
    with holder(layout) as process:
        with (
            pytest.raises(StorageError, match=rf"aaaaaaaaaaaa is in use by process {process.pid} on .*same command"),
            generation_lock(layout, FINGERPRINT, waits.append, timeout=0.3, every=0.1),
        ):
            pytest.fail("two processes hold one lock")
        with generation_lock(layout, "b" * 64, timeout=0), database_lock(layout, timeout=0):
            pass
    assert 1 <= len(waits) <= 3
    assert waits == sorted(waits)
    assert waits[0] >= 0.1


def test_a_killed_holder_loses_the_lock_at_once(layout: StoreLayout) -> None:
    with holder(layout) as process:
        process.kill()
        process.wait()
        with generation_lock(layout, FINGERPRINT, timeout=5):
            note = layout.generation_lock_of(FINGERPRINT).with_suffix(".holder").read_text()
    assert note.startswith(f"process {os.getpid()} on ")


def test_a_waiter_without_a_time_limit_goes_on_when_the_holder_ends(layout: StoreLayout) -> None:
    with holder(layout) as process:
        assert process.stdin is not None
        ending = threading.Timer(0.3, process.stdin.close)
        ending.start()
        waits: list[float] = []
        with generation_lock(layout, FINGERPRINT, waits.append, every=0.1):
            assert waits
        ending.join()


def test_the_lock_is_released_when_the_block_raises(layout: StoreLayout) -> None:
    with pytest.raises(RuntimeError), generation_lock(layout, FINGERPRINT):
        raise RuntimeError
    with generation_lock(layout, FINGERPRINT, timeout=0):
        pass


def test_a_folder_that_takes_no_lock_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("")
    with pytest.raises(StorageError, match="cannot be taken"), database_lock(StoreLayout(tmp_path)):
        pytest.fail("a lock was held in a file")
