"""Chunks, plan, journal and archive: what survives a death, and what is never recut or overwritten."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backtracking_assets.errors import StorageError
from backtracking_assets.records import COMPLETIONS
from backtracking_assets.storage.archive import (
    archived_condition,
    archived_fingerprints,
    archived_keys,
    compact,
    read_archive,
    verified_archive,
)
from backtracking_assets.storage.chunks import Chunk, chunk_of, cut
from backtracking_assets.storage.journal import (
    clear_journal,
    finish_chunk,
    finished_chunks,
    journal_progress,
    plan_chunks,
)
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.parquet import DamagedFileError, write_parquet
from backtracking_assets.storage.rows import keys_of
from backtracking_assets_tests.unit.storage_samples import completions_of, condition, keys

CONDITION = condition()
FINGERPRINT = CONDITION.fingerprint


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    layout = StoreLayout(tmp_path)
    layout.prepare()
    return layout


def finish(layout: StoreLayout, chunk: Chunk, **changes: object) -> Path:
    return finish_chunk(layout, FINGERPRINT, chunk, completions_of(FINGERPRINT, chunk, **changes))


def reasons(layout: StoreLayout) -> list[str]:
    return [path.read_text().strip() for path in sorted(layout.set_aside.glob("*.reason.txt"))]


def as_json(value: object) -> bytes:
    return json.dumps({"format": 1, "fingerprint": FINGERPRINT, "chunks": value, "sha256": "0"}).encode()


@given(st.lists(st.integers(1, 6), max_size=12), st.integers(1, 8))
def test_a_cut_keeps_order_size_and_problems_together(samples: list[int], size: int) -> None:
    wanted = [(f"p{problem}", sample) for problem, count in enumerate(samples) for sample in range(count)]
    chunks = cut("f", wanted, size)
    assert [key for chunk in chunks for key in chunk.keys] == wanted
    assert all(1 <= len(chunk.keys) <= size for chunk in chunks)
    for problem, count in enumerate(samples):
        if count <= size:
            assert sum(any(key[0] == f"p{problem}" for key in chunk.keys) for chunk in chunks) == 1


def test_a_cut_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="at least one"):
        cut("f", keys(1, 1), 0)
    with pytest.raises(ValueError, match="twice"):
        cut("f", [("p", 0), ("p", 0)], 4)
    with pytest.raises(ValueError, match="together"):
        cut("f", [("p", 0), ("q", 0), ("p", 1)], 4)


def test_a_chunk_id_depends_on_condition_keys_and_order() -> None:
    ids = {chunk_of(f, k).chunk_id for f in ("a", "b") for k in ([("p", 0), ("p", 1)], [("p", 1), ("p", 0)])}
    assert len(ids) == 4


def test_a_restart_gets_the_same_chunks_whatever_is_asked_for_then(layout: StoreLayout) -> None:
    first = plan_chunks(layout, FINGERPRINT, keys(6, 2), (), 4)
    plan = layout.plan_of(FINGERPRINT).read_bytes()
    finish(layout, first[1])
    assert plan_chunks(layout, FINGERPRINT, keys(6, 2), (), 4) == first
    assert plan_chunks(layout, FINGERPRINT, keys(6, 2), (), 7) == first
    assert plan_chunks(layout, FINGERPRINT, keys(1, 2), (), 4) == first[:1]
    assert layout.plan_of(FINGERPRINT).read_bytes() == plan
    assert finished_chunks(layout, FINGERPRINT).keys() == {first[1].chunk_id}
    assert journal_progress(layout, FINGERPRINT) == (4, 12)


def test_appended_problems_and_samples_become_further_chunks(layout: StoreLayout) -> None:
    first = plan_chunks(layout, FINGERPRINT, keys(3, 2), (), 4)
    more = plan_chunks(layout, FINGERPRINT, keys(4, 3), (), 4)
    assert more[: len(first)] == first
    appended = [key for chunk in more[len(first) :] for key in chunk.keys]
    assert appended == [key for key in keys(4, 3) if key not in keys(3, 2)]
    assert plan_chunks(layout, FINGERPRINT, keys(4, 3), (), 4) == more


def test_archived_completions_are_not_planned_again(layout: StoreLayout) -> None:
    planned = plan_chunks(layout, FINGERPRINT, keys(4, 2), set(keys(2, 2)), 8)
    assert [key for chunk in planned for key in chunk.keys] == keys(4, 2)[4:]
    assert plan_chunks(layout, FINGERPRINT, keys(4, 2), set(keys(4, 2)), 8) == []


def torn(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-20])


def foreign(plan: Path) -> None:
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "fingerprint": "0" * 64}))


def altered(plan: Path) -> None:
    plan.write_text(plan.read_text().replace("p000", "p009"))


def newer(plan: Path) -> None:
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "format": 2}))


def no_plan(plan: Path) -> None:
    plan.write_text('["no plan"]')


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (torn, "it is torn or is no plan"),
        (foreign, "it is the plan of another condition"),
        (altered, "its checksum does not fit its content"),
        (newer, "its format is 2 where 1 was expected"),
        (no_plan, "it is torn or is no plan"),
    ],
)
def test_a_bad_plan_is_made_anew_and_finished_chunks_keep_counting(
    layout: StoreLayout, spoil: Callable[[Path], None], reason: str
) -> None:
    first = plan_chunks(layout, FINGERPRINT, keys(6, 3), (), 7)
    for chunk in first[1:]:
        finish(layout, chunk)
    spoil(layout.plan_of(FINGERPRINT))
    assert plan_chunks(layout, FINGERPRINT, keys(6, 3), (), 7) == first
    assert reasons(layout) == [reason]
    assert finished_chunks(layout, FINGERPRINT).keys() == {chunk.chunk_id for chunk in first[1:]}


@given(st.one_of(st.binary(max_size=60), st.recursive(st.none() | st.text() | st.floats(), st.lists).map(as_json)))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_other_plan_is_set_aside(layout: StoreLayout, content: bytes) -> None:
    layout.journal_of(FINGERPRINT).mkdir(exist_ok=True)
    layout.plan_of(FINGERPRINT).write_bytes(content)
    before = len(reasons(layout))
    assert plan_chunks(layout, FINGERPRINT, keys(1, 1), (), 1) == cut(FINGERPRINT, keys(1, 1), 1)
    assert len(reasons(layout)) == before + 1


def test_a_plan_made_anew_for_other_problems_is_cut_around_the_finished_chunks(layout: StoreLayout) -> None:
    first = plan_chunks(layout, FINGERPRINT, keys(4, 2), (), 4)
    finish(layout, first[1])
    layout.plan_of(FINGERPRINT).write_bytes(b"")
    anew = plan_chunks(layout, FINGERPRINT, keys(6, 2), (), 6)
    assert anew[0] == first[1]
    assert sorted(key for chunk in anew for key in chunk.keys) == keys(6, 2)


def test_a_finished_chunk_holds_exactly_its_completions_in_its_order(layout: StoreLayout) -> None:
    chunk = plan_chunks(layout, FINGERPRINT, keys(2, 2), (), 4)[0]
    table = completions_of(FINGERPRINT, chunk)
    for wrong, reason in (
        (table.slice(1), "other completions"),
        (table.take([0, 0, 1, 2]), "other completions"),
        (completions_of("0" * 64, chunk), "another fingerprint"),
        (completions_of(FINGERPRINT, Chunk("another", chunk.keys)), "another chunk_id"),
    ):
        with pytest.raises(StorageError, match=reason):
            finish_chunk(layout, FINGERPRINT, chunk, wrong)
    assert finished_chunks(layout, FINGERPRINT) == {}
    path = finish_chunk(layout, FINGERPRINT, chunk, table.take([3, 1, 0, 2]))
    content = path.read_bytes()
    assert finished_chunks(layout, FINGERPRINT)[chunk.chunk_id].equals(table)
    assert finish(layout, chunk).read_bytes() == content


def test_bad_chunk_files_are_set_aside_and_count_as_missing(layout: StoreLayout) -> None:
    chunks = plan_chunks(layout, FINGERPRINT, keys(6, 1), (), 1)
    files = [finish(layout, chunk) for chunk in chunks]
    other = condition(seed=7).fingerprint
    foreign_chunk = plan_chunks(layout, other, keys(6, 1), (), 1)[0]
    foreign_file = finish_chunk(layout, other, foreign_chunk, completions_of(other, foreign_chunk))

    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    shutil.copy(foreign_file, files[2])
    files[3].rename(files[3].with_name("0" * 16 + ".parquet"))
    facts = {"kind": "chunk", "fingerprint": FINGERPRINT, "chunk_id": chunks[4].chunk_id}
    write_parquet(completions_of(FINGERPRINT, chunks[0]), files[4], facts)

    assert finished_chunks(layout, FINGERPRINT).keys() == {chunks[5].chunk_id}
    assert len(reasons(layout)) == 5
    assert "it is empty" in reasons(layout)
    assert f"its fingerprint is {other} where {FINGERPRINT} was expected" in reasons(layout)
    assert "its completions are not those of its chunk" in reasons(layout)
    assert finished_chunks(layout, FINGERPRINT).keys() == {chunks[5].chunk_id}
    finish(layout, chunks[0])
    assert len(finished_chunks(layout, FINGERPRINT)) == 2


def test_the_archive_holds_all_completions_sorted_and_knows_its_condition(layout: StoreLayout) -> None:
    for chunk in reversed(plan_chunks(layout, FINGERPRINT, keys(5, 2), (), 4)):
        finish(layout, chunk)
    assert compact(layout, CONDITION) == 10
    content = layout.archive_of(FINGERPRINT).read_bytes()
    assert keys_of(read_archive(layout, FINGERPRINT)) == keys(5, 2)
    assert read_archive(layout, FINGERPRINT).schema.equals(COMPLETIONS)
    assert archived_keys(layout, FINGERPRINT) == set(keys(5, 2))
    assert archived_condition(layout, FINGERPRINT) == CONDITION
    (layout.archive / "notes.parquet").write_bytes(b"")
    assert archived_fingerprints(layout) == [FINGERPRINT]
    # The journal waits for the database, so a death in between loses nothing and repeats to the same bytes.
    assert compact(layout, CONDITION) == 10
    layout.archive_of(FINGERPRINT).unlink()
    assert compact(layout, CONDITION) == 10
    assert layout.archive_of(FINGERPRINT).read_bytes() == content
    clear_journal(layout, FINGERPRINT)
    assert not layout.journal_of(FINGERPRINT).exists()
    clear_journal(layout, FINGERPRINT)


def test_an_interrupted_clearing_generates_nothing_again(layout: StoreLayout) -> None:
    chunks = plan_chunks(layout, FINGERPRINT, keys(4, 1), (), 2)
    files = [finish(layout, chunk) for chunk in chunks]
    compact(layout, CONDITION)
    files[0].unlink()
    assert plan_chunks(layout, FINGERPRINT, keys(4, 1), archived_keys(layout, FINGERPRINT), 2) == []


def test_the_archive_grows_by_appended_problems(layout: StoreLayout) -> None:
    for n_problems in (2, 4):
        for chunk in plan_chunks(layout, FINGERPRINT, keys(n_problems, 2), archived_keys(layout, FINGERPRINT), 4):
            finish(layout, chunk, run_id=f"run-{n_problems}")
        compact(layout, CONDITION)
        clear_journal(layout, FINGERPRINT)
    table = read_archive(layout, FINGERPRINT)
    assert keys_of(table) == keys(4, 2)
    assert table["run_id"].to_pylist() == ["run-2"] * 4 + ["run-4"] * 4


def test_the_same_completion_made_twice_is_kept_once_and_a_different_one_is_refused(layout: StoreLayout) -> None:
    finish(layout, chunk_of(FINGERPRINT, keys(2, 1)))
    compact(layout, CONDITION)
    archived = layout.archive_of(FINGERPRINT).read_bytes()
    again = finish(layout, chunk_of(FINGERPRINT, keys(3, 1)), run_id="run-9", device="cuda:0")
    assert compact(layout, CONDITION) == 3
    assert read_archive(layout, FINGERPRINT)["run_id"].to_pylist() == ["run-1", "run-1", "run-9"]

    layout.archive_of(FINGERPRINT).write_bytes(archived)
    finish(layout, chunk_of(FINGERPRINT, keys(3, 1)), text="another text")
    with pytest.raises(StorageError, match="two different completions of problem p000, sample 0"):
        compact(layout, CONDITION)
    assert layout.archive_of(FINGERPRINT).read_bytes() == archived
    assert again.exists()


def test_a_damaged_archive_is_set_aside_and_what_the_journal_has_is_archived(layout: StoreLayout) -> None:
    chunks = [chunk_of(FINGERPRINT, [key]) for key in keys(2, 1)]
    finish(layout, chunks[0])
    compact(layout, CONDITION)
    clear_journal(layout, FINGERPRINT)
    path = layout.archive_of(FINGERPRINT)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DamagedFileError, match="torn"):
        read_archive(layout, FINGERPRINT)
    with pytest.raises(DamagedFileError, match="torn"):
        archived_keys(layout, FINGERPRINT)
    assert path.exists()

    finish(layout, chunks[1])
    assert compact(layout, CONDITION) == 1
    assert len(reasons(layout)) == 1
    assert archived_keys(layout, FINGERPRINT) == {("p001", 0)}
    path.write_bytes(b"")
    assert verified_archive(layout, FINGERPRINT) is None
    assert archived_keys(layout, FINGERPRINT) == set()


def test_an_archive_of_another_condition_is_refused(layout: StoreLayout) -> None:
    other = condition(seed=7)
    finish(layout, chunk_of(FINGERPRINT, keys(2, 1)))
    compact(layout, CONDITION)
    shutil.copy(layout.archive_of(FINGERPRINT), layout.archive_of(other.fingerprint))
    with pytest.raises(DamagedFileError, match="its fingerprint is"):
        read_archive(layout, other.fingerprint)
    facts = {"kind": "archive", "fingerprint": other.fingerprint, "condition": CONDITION.canonical_json()}
    table = completions_of(other.fingerprint, chunk_of(other.fingerprint, keys(2, 1)))
    write_parquet(table, layout.archive_of(other.fingerprint), facts)
    with pytest.raises(DamagedFileError, match="another fingerprint"):
        archived_condition(layout, other.fingerprint)
    write_parquet(table.take([1, 0]), layout.archive_of(other.fingerprint), facts)
    with pytest.raises(DamagedFileError, match="not sorted"):
        read_archive(layout, other.fingerprint)


def test_nothing_to_archive_is_an_error(layout: StoreLayout) -> None:
    with pytest.raises(StorageError, match="no finished completion"):
        compact(layout, CONDITION)
