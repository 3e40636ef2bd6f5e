"""The file of a chunk that is at work: whole or not used, bound to what it was made with, and gone when it is done."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from backtracking_assets.assets import chunk_making
from backtracking_assets.assets.chunk_making import _Keeper
from backtracking_assets.models.chunk_state import ChunkState
from backtracking_assets.storage.bundles.snapshot import local_files
from backtracking_assets.storage.chunk_progress import ChunkProgress, kept_steps, read_progress, write_progress
from backtracking_assets.storage.chunks import Chunk, chunk_of
from backtracking_assets.storage.journal import clear_journal, finish_chunk, finished_chunks, plan_chunks
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.integration.disks import fill, mounted
from backtracking_assets_tests.unit.storage_samples import completions_of, condition, keys

FINGERPRINT = condition().fingerprint
MADE_WITH = "a" * 64
FACTS = {"steps_before": 30.0, "step": 12.0, "seconds": 3.5}
ARRAYS = {
    "tokens": np.arange(24, dtype=np.int32).reshape(4, 6),
    "none": np.empty((0,), np.int64),
    "keys.0": np.linspace(0, 1, 96, dtype=np.float32).reshape(4, 2, 3, 4)[:, :, :2],
    "half": np.arange(6, dtype=np.int16),
    "ended": np.array([True, False, True, True]),
}


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    layout = StoreLayout(tmp_path)
    layout.prepare()
    return layout


@pytest.fixture
def chunk(layout: StoreLayout) -> Chunk:
    """The first chunk of a plan, with its progress kept."""
    planned = plan_chunks(layout, FINGERPRINT, keys(4, 2), set(), 4)
    write_progress(layout, FINGERPRINT, planned[0], MADE_WITH, ChunkProgress(FACTS, ARRAYS))
    return planned[0]


def reasons(layout: StoreLayout) -> list[str]:
    return [path.read_text().strip() for path in sorted(layout.set_aside.glob("*.reason.txt"))]


def test_what_is_kept_is_read_again_and_is_plain_safetensors(layout: StoreLayout, chunk: Chunk) -> None:
    found = read_progress(layout, FINGERPRINT, chunk, MADE_WITH)
    assert found is not None
    assert found.facts == FACTS
    for arrays in (found.arrays, load_file(layout.progress_file(FINGERPRINT, chunk.chunk_id))):
        assert arrays.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert arrays[name].dtype == array.dtype
            assert np.array_equal(arrays[name], array)
    later = ChunkProgress({"step": 13.0}, {"tokens": ARRAYS["tokens"]})
    write_progress(layout, FINGERPRINT, chunk, MADE_WITH, later)
    found = read_progress(layout, FINGERPRINT, chunk, MADE_WITH)
    assert found is not None
    assert (found.facts, list(found.arrays)) == ({"step": 13.0}, ["tokens"])


def test_the_step_that_is_kept_is_told_from_the_header_alone(layout: StoreLayout, chunk: Chunk) -> None:
    path = layout.progress_file(FINGERPRINT, chunk.chunk_id)
    assert kept_steps(layout, FINGERPRINT) == 42
    assert kept_steps(layout, "0" * 64) is None
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert kept_steps(layout, FINGERPRINT) == 42
    path.write_bytes(content[:20])
    assert kept_steps(layout, FINGERPRINT) is None
    assert path.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"facts": '{"steps_before": 30.0, "step": Infinity}'},
        {"facts": "[" * 100_000},
        {"facts": '{"step": 12.0}'},
        {"fingerprint": "0" * 64},
        {"format": "2"},
    ],
    ids=["infinite", "nested", "incomplete", "of another condition", "of another format"],
)
def test_a_header_that_says_no_step_of_the_condition_counts_as_none(
    layout: StoreLayout, chunk: Chunk, changes: dict[str, str]
) -> None:
    path = layout.progress_file(FINGERPRINT, chunk.chunk_id)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]

    def write(changed: dict[str, str]) -> None:
        header = json.dumps({"__metadata__": metadata | changed}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)

    write({})
    assert kept_steps(layout, FINGERPRINT) == 42
    write(changes)
    assert kept_steps(layout, FINGERPRINT) is None


def test_a_chunk_without_a_file_begins_from_its_start(layout: StoreLayout) -> None:
    assert read_progress(layout, FINGERPRINT, chunk_of(FINGERPRINT, keys(1, 1)), MADE_WITH) is None
    assert reasons(layout) == []


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "torn or is no state"),
    "the length alone": (lambda content: content[:8], "torn or is no state"),
    "half of the header": (lambda content: content[:200], "torn or is no state"),
    "the header alone": (lambda content: content[: 8 + int.from_bytes(content[:8], "little")], "checksum"),
    "without its last byte": (lambda content: content[:-1], "checksum"),
    "with a byte more": (lambda content: content + b"\0", "checksum"),
    "one bit of an array": (lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:], "checksum"),
    "another number": (lambda content: content.replace(b"12.0", b"13.0"), "checksum"),
    "no sum": (lambda content: content.replace(b'"sha256"', b'"sha-256"'[:8]), "torn or is no state"),
    "a longer header than there is": (lambda content: b"\xff" * 8 + content[8:], "torn or is no state"),
    "no JSON": (lambda content: content[:8] + b"\x00" * (len(content) - 8), "torn or is no state"),
    "another format": (lambda content: content.replace(b'"format": "1"', b'"format": "2"'), "another format"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_set_aside_and_the_chunk_begins_anew(
    layout: StoreLayout, chunk: Chunk, damage: Callable[[bytes], bytes], reason: str
) -> None:
    path = layout.progress_file(FINGERPRINT, chunk.chunk_id)
    path.write_bytes(damage(path.read_bytes()))
    assert read_progress(layout, FINGERPRINT, chunk, MADE_WITH) is None
    assert not path.exists()
    (found,) = reasons(layout)
    assert reason in found
    assert read_progress(layout, FINGERPRINT, chunk, MADE_WITH) is None


def test_a_file_of_another_chunk_or_made_with_something_else_is_set_aside(layout: StoreLayout, chunk: Chunk) -> None:
    assert read_progress(layout, FINGERPRINT, chunk, "b" * 64) is None
    other = chunk_of(FINGERPRINT, keys(1, 1))
    write_progress(layout, FINGERPRINT, chunk, MADE_WITH, ChunkProgress(FACTS, ARRAYS))
    path = layout.progress_file(FINGERPRINT, chunk.chunk_id)
    path.rename(layout.progress_file(FINGERPRINT, other.chunk_id))
    assert read_progress(layout, FINGERPRINT, other, MADE_WITH) is None
    assert sorted(reason[:20] for reason in reasons(layout)) == ["it is no state of th", "it was made with ano"]


def test_it_goes_when_its_chunk_is_finished_or_the_journal_cleared(layout: StoreLayout, chunk: Chunk) -> None:
    path = layout.progress_file(FINGERPRINT, chunk.chunk_id)
    assert finished_chunks(layout, FINGERPRINT) == {}
    finish_chunk(layout, FINGERPRINT, chunk, completions_of(FINGERPRINT, chunk))
    assert not path.exists()
    write_progress(layout, FINGERPRINT, chunk, MADE_WITH, ChunkProgress(FACTS, ARRAYS))
    clear_journal(layout, FINGERPRINT)
    assert not path.parent.exists()


def test_bundles_leave_it_where_it_is(layout: StoreLayout, chunk: Chunk) -> None:
    finish_chunk(layout, FINGERPRINT, chunk, completions_of(FINGERPRINT, chunk))
    write_progress(layout, FINGERPRINT, chunk, MADE_WITH, ChunkProgress(FACTS, ARRAYS))
    names = [Path(path).name for path in local_files(layout, {})]
    assert sorted(names) == [f"{chunk.chunk_id}.parquet", "plan.json"]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("every", "cost", "expected"),
    [
        (60.0, 0.5, [60, 121, 182, 243]),  # a minute after the last one ended
        (60.0, 6.0, [60, 186]),  # twenty times what it took
        (0.0, 6.0, [0, 10, 20, 30]),  # after every step
    ],
)
def test_a_chunk_is_kept_once_a_minute_and_for_a_twentieth_of_the_time_at_most(
    layout: StoreLayout, monkeypatch: pytest.MonkeyPatch, every: float, cost: float, expected: list[int]
) -> None:
    clock, saved = Clock(), list[float]()
    monkeypatch.setattr(chunk_making, "time", clock)

    def save(*arguments: object) -> None:
        saved.append(clock.now - 1000)
        clock.now += cost

    monkeypatch.setattr(chunk_making, "write_progress", save)
    keeper = _Keeper(layout, FINGERPRINT, chunk_of(FINGERPRINT, keys(1, 1)), MADE_WITH, every, lambda message: None)
    for second in range(0, 300, 10 if every == 0 else 1):
        clock.now = max(clock.now, 1000.0 + second)
        keeper.keep(lambda: ChunkState({}, {}))
    assert [round(moment) for moment in saved[: len(expected)]] == expected


def test_a_full_disk_ends_the_keeping_and_not_the_chunk(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 4) as disk:
        layout = StoreLayout(disk / "store")
        layout.prepare()
        (chunk,) = plan_chunks(layout, FINGERPRINT, keys(2, 2), set(), 4)
        told: list[str] = []
        keeper = _Keeper(layout, FINGERPRINT, chunk, MADE_WITH, 0.0, told.append)
        state = ChunkState(FACTS, {"tokens": np.zeros((512, 512), np.int32)})
        keeper.keep(lambda: state)
        assert told == []
        fill(disk)
        for _ in range(2):
            keeper.keep(lambda: state)
        (line,) = told
        assert line.startswith("How far the chunk is could not be kept, and it goes on without: The disk of ")
        # The earlier state is whole, and nothing half-written is left.
        found = read_progress(layout, FINGERPRINT, chunk, MADE_WITH)
        assert found is not None
        assert [path.name for path in layout.journal_of(FINGERPRINT).glob(".*")] == []
