"""Conditions and the cells that point to them: rows are replaced by key, and a cell holds exactly its own."""

import time
from pathlib import Path

import pytest

from backtracking_assets.errors import StorageError
from backtracking_assets.records import COMPLETIONS, DETECTIONS, Cell
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import compact, read_archive
from backtracking_assets.storage.chunks import chunk_of
from backtracking_assets.storage.commits import (
    commit_condition,
    link_cell,
    write_detections,
)
from backtracking_assets.storage.journal import clear_journal, finish_chunk
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.parquet import DamagedFileError
from backtracking_assets.storage.rows import keys_of
from backtracking_assets_tests.unit.storage_samples import (
    ABLATED,
    BASELINE,
    RULES,
    completion_row,
    completions_of,
    detections_of,
    generate,
    keys,
    table_of,
)
from backtracking_assets_tests.unit.study_samples import BASE, LESS, generations, left, link


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    return StoreLayout(tmp_path)


def test_a_condition_comes_back_exactly(layout: StoreLayout) -> None:
    generate(layout, LESS, keys(3, 2))
    stored = queries.completions(layout, LESS.fingerprint)
    assert stored.equals(read_archive(layout, LESS.fingerprint))
    assert stored.schema.equals(COMPLETIONS)
    assert queries.condition(layout, LESS.fingerprint) == LESS
    assert queries.condition(layout, BASE.fingerprint) is None
    assert queries.completion_counts(layout) == {LESS.fingerprint: 6}
    assert queries.completion_keys(layout, LESS.fingerprint) == set(keys(3, 2))
    row = queries.conditions(layout).to_pylist()[0]
    assert (row["scale"], row["components"], row["n_completions"]) == (0.0, ["mlp.27"], 6)
    assert row["created_at"].isoformat() == "2026-01-02T03:04:05.678901+00:00"


def test_a_baseline_has_scale_one_and_no_components(layout: StoreLayout) -> None:
    generate(layout, BASE, keys(1, 1))
    row = queries.conditions(layout).to_pylist()[0]
    assert (row["scale"], row["components"]) == (1.0, [])


def test_text_with_surrogates_and_nul_and_the_largest_token_id_are_stored(layout: StoreLayout) -> None:
    layout.prepare()
    fingerprint = LESS.fingerprint
    chunk = chunk_of(fingerprint, keys(1, 1))
    row = completion_row(fingerprint, chunk.chunk_id, chunk.keys[0], text="Wait\ud800,\0 no 😀", token_ids=[2**31 - 1])
    finish_chunk(layout, fingerprint, chunk, table_of([row], COMPLETIONS))
    compact(layout, LESS)
    commit_condition(layout, LESS, run_id="run-1")
    stored = queries.completions(layout, fingerprint).to_pylist()[0]
    assert stored["text"] == "Wait�,\0 no 😀"
    assert stored["token_ids"] == [2**31 - 1]


def test_a_commit_repeated_changes_nothing_and_replaces_rather_than_adds(study: StoreLayout) -> None:
    before = left(study)
    assert before == {"detections": 4, "metrics": 2, "comparisons": 1}
    assert commit_condition(study, LESS, run_id="run-9") == 4
    assert queries.completion_counts(study) == {LESS.fingerprint: 4}
    assert left(study) == before


def test_a_commit_without_an_archive_changes_nothing(study: StoreLayout) -> None:
    path = study.archive_of(LESS.fingerprint)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedFileError):
        commit_condition(study, LESS, run_id="run-9")
    assert queries.completion_counts(study) == {LESS.fingerprint: 4}


def test_changed_completions_take_what_was_computed_from_them_along(study: StoreLayout) -> None:
    study.archive_of(LESS.fingerprint).unlink()
    chunk = chunk_of(LESS.fingerprint, keys(2, 2))
    finish_chunk(study, LESS.fingerprint, chunk, completions_of(LESS.fingerprint, chunk, n_firings=3))
    compact(study, LESS)
    commit_condition(study, LESS, run_id="run-9")
    assert left(study) == {"detections": 0, "metrics": 0, "comparisons": 0}
    row = queries.cell_row(study, ABLATED)
    assert row is not None
    assert row["rules_digest"] is None


def test_appended_problems_keep_what_is_known_of_the_others(study: StoreLayout) -> None:
    chunk = chunk_of(LESS.fingerprint, keys(3, 2)[4:])
    finish_chunk(study, LESS.fingerprint, chunk, completions_of(LESS.fingerprint, chunk))
    compact(study, LESS)
    commit_condition(study, LESS, run_id="run-9")
    clear_journal(study, LESS.fingerprint)
    assert left(study)["detections"] == 4
    # The cell still points to its two problems; its results stand until it is linked to three.
    assert left(study)["metrics"] == 2
    link(study, ABLATED, 3)
    assert left(study) == {"detections": 4, "metrics": 0, "comparisons": 0}


def test_a_cell_holds_exactly_its_problems_and_samples(layout: StoreLayout) -> None:
    generate(layout, LESS, keys(3, 3))
    link(layout, ABLATED, 2, 2)
    found = generations(layout, ABLATED)
    assert keys_of(found) == keys(2, 2)
    assert found["rules_digest"].null_count == 4
    row = queries.cell_row(layout, ABLATED)
    assert row is not None
    assert row["n_completions"] == 4
    assert queries.cell_row(layout, BASELINE) is None


def test_generations_join_the_detections_of_the_cells_own_rules(layout: StoreLayout) -> None:
    generate(layout, LESS, keys(2, 2))
    link(layout, ABLATED)
    write_detections(layout, detections_of(LESS.fingerprint, keys(2, 2), has_strict=True), cell=ABLATED)
    write_detections(layout, detections_of(LESS.fingerprint, keys(2, 2), "0" * 64, has_strict=False))
    found = generations(layout, ABLATED)
    assert found["has_strict"].to_pylist() == [True] * 4
    assert found["rules_digest"].to_pylist() == [RULES] * 4
    assert len(set(found.column_names)) == len(found.column_names)
    assert set(COMPLETIONS.names) | set(DETECTIONS.names) <= set(found.column_names)


def test_two_cells_share_the_rows_of_one_condition(layout: StoreLayout) -> None:
    generate(layout, BASE, keys(2, 2))
    link(layout, BASELINE)
    link(layout, Cell("attn_27_only", 1.0))
    assert queries.cells(layout)["layer_subset"].to_pylist() == ["attn_27_only", "mlp_27_only"]
    assert queries.completion_counts(layout) == {BASE.fingerprint: 4}
    assert generations(layout, Cell("attn_27_only", 1.0)).num_rows == 4


def test_a_cell_that_lacks_a_completion_or_its_problems_is_not_linked(layout: StoreLayout) -> None:
    generate(layout, LESS, keys(2, 2))
    with pytest.raises(StorageError, match="4 of its 6 completions"):
        link(layout, ABLATED, 3, 2)
    with pytest.raises(StorageError, match="problem set 000000000000 is not"):
        link_cell(
            layout,
            ABLATED,
            fingerprint=LESS.fingerprint,
            problem_set_digest="0" * 64,
            n_samples=2,
            run_id="run-1",
        )
    assert queries.cells(layout).num_rows == 0


def test_only_the_first_cell_of_a_condition_is_not_linked(layout: StoreLayout) -> None:
    """Whichever run commits it, and however often: a run that goes on after a crash says the same."""
    generate(layout, BASE, keys(2, 2))
    first, second = Cell("attn_1", 1.0), Cell("both_0", 1.0)
    for cell in (first, first, second, first, second):
        link(layout, cell)
    rows = {row["layer_subset"]: row["linked"] for row in queries.cells(layout).to_pylist()}
    assert rows == {"attn_1": False, "both_0": True}


def test_linking_again_keeps_results_and_fewer_samples_remove_them(study: StoreLayout) -> None:
    link(study, ABLATED)
    assert left(study) == {"detections": 4, "metrics": 2, "comparisons": 1}
    link(study, ABLATED, n_samples=1)
    assert left(study) == {"detections": 4, "metrics": 0, "comparisons": 0}


def test_speed_of_a_condition_of_500_rows_of_2_kb(layout: StoreLayout) -> None:
    layout.prepare()
    wanted = keys(125, 4)
    fingerprint = LESS.fingerprint
    chunk = chunk_of(fingerprint, wanted)
    rows = completions_of(fingerprint, chunk, text="Wait, " * 340, token_ids=list(range(512)))
    began = time.perf_counter()
    steps = []
    for name, step in (
        ("chunk", lambda: finish_chunk(layout, fingerprint, chunk, rows)),
        ("archive", lambda: compact(layout, LESS)),
        ("first commit", lambda: commit_condition(layout, LESS, run_id="run-1")),
        ("second commit", lambda: commit_condition(layout, LESS, run_id="run-1")),
        ("read", lambda: queries.completions(layout, fingerprint)),
    ):
        step()
        steps.append(f"{name} {1000 * (time.perf_counter() - began):.0f} ms")
        began = time.perf_counter()
    print(", ".join(steps))
    assert queries.completion_counts(layout) == {fingerprint: 500}
