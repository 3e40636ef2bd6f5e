"""A database that someone holds, and files that are torn, empty or foreign: nothing whole is generated again."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backtracking_assets.assets.generating import Generation, ensure_completions
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.errors import HeldDatabaseError
from backtracking_assets.models import generation
from backtracking_assets.records import Cell
from backtracking_assets.storage import commits, queries
from backtracking_assets.storage.archive import archived_condition, read_archive
from backtracking_assets.storage.checksum import content_sha256
from backtracking_assets.storage.database import writing
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.integration.studies import Study, make_study

CELL, OTHER = Cell("both_0", 0.0), Cell("attn_1", 0.0)
Corrupt = Callable[[Path, StoreLayout, str], object]


@pytest.fixture
def study(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Study]:
    made = make_study(tmp_path / "study", tiny_checkpoint)
    with made.active():
        yield made


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every batch that the engine was asked for."""
    sizes: list[int] = []
    engine = generation.generate

    def observed(model, requests, *arguments, **options):
        sizes.append(len(requests))
        return engine(model, requests, *arguments, **options)

    monkeypatch.setattr(generation, "generate", observed)
    return sizes


def make(opened: OpenExperiment, run_id: str, told: list[str] | None = None, cell: Cell = CELL) -> Generation:
    return ensure_completions(opened, cell, run_id=run_id, log=(told if told is not None else []).append)


def fingerprint_of(opened: OpenExperiment) -> str:
    return opened.condition(CELL).fingerprint


def set_aside(layout: StoreLayout) -> dict[str, str]:
    """What is set aside, with its reason."""
    return {
        path.name.removesuffix(".reason.txt"): path.read_text(encoding="utf-8").strip()
        for path in layout.set_aside.glob("*.reason.txt")
    }


def _hold(database: str, opened, closing) -> None:
    with duckdb.connect(database):
        opened.set()
        closing.wait()


@contextmanager
def notebook(database: Path) -> Iterator[int | None]:
    """Another process that holds the database open for the length of the block; its id."""
    context = multiprocessing.get_context("spawn")
    opened, closing = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(database), opened, closing))
    process.start()
    try:
        assert opened.wait(120)
        yield process.pid
    finally:
        closing.set()
        process.join(60)


def test_a_database_held_by_a_notebook_costs_a_wait_and_nothing_else(
    study: Study, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (commits, queries):
        for function in vars(module).values():
            if "wait" in (getattr(function, "__kwdefaults__", None) or {}):
                monkeypatch.setitem(function.__kwdefaults__, "wait", 0.5)
    opened = study.opened()
    make(opened, "before", cell=OTHER)
    with notebook(study.layout.database) as pid, pytest.raises(HeldDatabaseError) as refused:
        make(study.opened(), "first")
    assert f"is held by process {pid} " in str(refused.value)
    assert "The completions are safe" in str(refused.value)
    assert "close that program's connection and run the same command again" in str(refused.value)
    archived = read_archive(study.layout, fingerprint_of(opened))
    assert archived.num_rows == 6
    assert batches == [4, 2, 4, 2]

    made = make(study.opened(), "second")
    assert (made.n_generated, made.n_completions) == (0, 6)
    assert batches == [4, 2, 4, 2]
    stored = queries.completions(study.layout, fingerprint_of(opened))
    assert stored.equals(archived)  # the run and the time of each row among them
    assert set(stored["run_id"].to_pylist()) == {"first"}


def _torn(path: Path, layout: StoreLayout, fingerprint: str) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path, layout: StoreLayout, fingerprint: str) -> None:
    path.write_bytes(b"")


def _altered(path: Path, layout: StoreLayout, fingerprint: str) -> None:
    """Another text in a sound file, which only the checksum over every column shows."""
    table = pq.read_table(path)
    at = table.column_names.index("text")
    texts = ["another text", *table["text"].to_pylist()[1:]]
    pq.write_table(table.set_column(at, table.schema.field(at), [texts]), path)


def _foreign(path: Path, layout: StoreLayout, fingerprint: str) -> None:
    others = [other for other in layout.archive.glob("*.parquet") if other != path]
    path.write_bytes(others[0].read_bytes())


def _gone(path: Path, layout: StoreLayout, fingerprint: str) -> None:
    path.unlink()


DAMAGES: dict[str, tuple[Corrupt, str | None]] = {
    "torn": (_torn, "torn"),
    "empty": (_empty, "it is empty"),
    "altered": (_altered, "its checksum does not fit"),
    "of another condition": (_foreign, "its fingerprint is"),
    "gone": (_gone, None),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_lost_archive_is_made_anew_from_the_database(
    study: Study, batches: list[int], damage: Corrupt, reason: str | None
) -> None:
    opened = study.opened()
    fingerprint = fingerprint_of(opened)
    make(opened, "other", cell=OTHER)
    make(opened, "first")
    before = queries.completions(study.layout, fingerprint)
    archive = study.layout.archive_of(fingerprint)
    whole = archive.read_bytes()
    damage(archive, study.layout, fingerprint)
    batches.clear()

    told: list[str] = []
    made = make(study.opened(), "second", told)
    assert batches == []
    assert (made.n_generated, made.linked, made.n_completions) == (0, True, 6)
    state = "gone" if reason is None else "damaged"
    assert (
        f"The archive of this condition was {state}; 6 completions were taken from the database: 6 verified against "
        "the keys of their chunks."
    ) in told
    assert archive.read_bytes() == whole
    assert queries.completions(study.layout, fingerprint).equals(before)
    aside = set_aside(study.layout)
    assert list(aside) == ([] if reason is None else [f"archive-{archive.name}"])
    if reason is not None:
        assert reason in aside[f"archive-{archive.name}"]


def test_rows_that_are_not_whole_are_left_out_and_generated(study: Study, batches: list[int]) -> None:
    opened = study.opened()
    fingerprint = fingerprint_of(opened)
    make(opened, "first")
    before = queries.completions(study.layout, fingerprint).drop_columns(["run_id", "generated_at", "chunk_seconds"])
    problem_id, sample_id = opened.keys()[-1]
    with writing(study.layout) as connection:
        connection.execute(
            "update completions set token_ids = token_ids[1:1] where problem_id = ? and sample_id = ?",
            [problem_id, sample_id],
        )
    _torn(study.layout.archive_of(fingerprint), study.layout, fingerprint)
    batches.clear()
    told: list[str] = []
    assert make(study.opened(), "second", told).n_generated == 2
    assert any(
        "4 verified against the keys of their chunks; 2 are not whole and were left out" in line for line in told
    )
    assert batches == [2]
    after = queries.completions(study.layout, fingerprint)
    assert after.drop_columns(["run_id", "generated_at", "chunk_seconds"]).equals(before)


def test_problems_that_are_not_asked_now_are_restored_too(study: Study, batches: list[int]) -> None:
    opened = study.opened(problems={"count": 5})
    fingerprint = fingerprint_of(opened)
    make(opened, "first")
    before = queries.completions(study.layout, fingerprint)
    _torn(study.layout.archive_of(fingerprint), study.layout, fingerprint)
    batches.clear()
    told: list[str] = []
    fewer = study.opened(problems={"count": 3})
    assert make(fewer, "second", told).n_generated == 0
    assert batches == []
    assert any("of problems that are not asked now verified row by row alone" in line for line in told)
    assert queries.completions(study.layout, fingerprint).equals(before)


def test_without_a_good_copy_it_is_generated_anew(study: Study, batches: list[int]) -> None:
    opened = study.opened()
    fingerprint = fingerprint_of(opened)
    make(opened, "first")
    before = content_of(study, fingerprint)
    _altered(study.layout.archive_of(fingerprint), study.layout, fingerprint)
    study.layout.database.unlink()
    batches.clear()
    told: list[str] = []
    assert make(study.opened(), "second", told).n_generated == 6
    assert batches == [4, 2]
    assert any("the database has no completions of it" in line for line in told)
    assert content_of(study, fingerprint).equals(before)


def content_of(study: Study, fingerprint: str) -> pa.Table:
    return queries.completions(study.layout, fingerprint).drop_columns(["run_id", "generated_at", "chunk_seconds"])


@pytest.mark.parametrize("damage", [_torn, _empty], ids=["torn", "empty"])
def test_a_bad_chunk_whose_completions_are_archived_is_not_generated_again(
    study: Study, batches: list[int], damage: Corrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died between the commit and the clearing of the journal."""
    opened = study.opened()
    fingerprint = fingerprint_of(opened)
    with monkeypatch.context() as patch:
        patch.setattr("backtracking_assets.assets.generating.clear_journal", lambda layout, fingerprint: None)
        make(opened, "first")
    before = queries.completions(study.layout, fingerprint)
    chunk = min(study.layout.journal_of(fingerprint).glob("*.parquet"))
    damage(chunk, study.layout, fingerprint)
    batches.clear()
    assert make(study.opened(), "second").n_generated == 0
    assert batches == []
    assert queries.completions(study.layout, fingerprint).equals(before)
    assert list(set_aside(study.layout)) == [f"journal-{fingerprint}-{chunk.name}"]
    assert list(study.layout.journal.iterdir()) == []


def test_an_older_archive_reads_and_grows(study: Study, batches: list[int]) -> None:
    """An archive of the first format, to which a further sample is added."""
    opened = study.opened()
    fingerprint = fingerprint_of(opened)
    make(opened, "first")
    _write_in_first_format(study.layout, fingerprint)
    study.layout.database.unlink()
    assert make(study.opened(), "second").n_generated == 0
    assert queries.completions(study.layout, fingerprint)["batch_rows"].null_count == 6
    assert make(study.opened(problems={"samples": 3}), "third").n_generated == 3
    assert queries.completions(study.layout, fingerprint)["batch_rows"].null_count == 6
    assert read_archive(study.layout, fingerprint).num_rows == 9


def _write_in_first_format(layout: StoreLayout, fingerprint: str) -> None:
    table = read_archive(layout, fingerprint).drop_columns(["batch_rows"])
    condition = archived_condition(layout, fingerprint).canonical_json()
    facts = {"kind": "archive", "fingerprint": fingerprint, "condition": condition}
    facts["sha256"] = content_sha256(table, facts)
    marked = table.replace_schema_metadata({f"backtracking.{key}": value for key, value in facts.items()})
    pq.write_table(marked, layout.archive_of(fingerprint), compression="zstd", write_page_checksum=True)
