"""The continuation ablation in the database: whole or not at all, and gone when the baseline changes."""

import pyarrow as pa
import pytest

from backtracking_assets.analysis.continuation_summaries import summarize
from backtracking_assets.errors import StorageError
from backtracking_assets.experiment_sections import Statistics
from backtracking_assets.storage import queries
from backtracking_assets.storage.commits import link_cell, write_detections
from backtracking_assets.storage.continuation_commits import write_continuation
from backtracking_assets.storage.input_commits import write_problem_set
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.unit.continuation_samples import positions_of, samples_of
from backtracking_assets_tests.unit.storage_samples import (
    ABLATED,
    BASELINE,
    RULES,
    condition,
    detections_of,
    generate,
    keys,
    problems,
)

FINGERPRINT = condition(1.0).fingerprint


@pytest.fixture
def layout(tmp_path) -> StoreLayout:
    """A baseline and an ablated cell of two problems, read by rules."""
    made = StoreLayout(tmp_path / "study")
    for scale in (1.0, 0.0):
        generate(made, condition(scale), keys(2, 2))
    write_problem_set(made, problems(2))
    for cell in (BASELINE, ABLATED):
        link(made, cell.scale)
        write_detections(made, detections_of(condition(cell.scale).fingerprint, keys(2, 2)), cell=cell)
    return made


def link(layout: StoreLayout, scale: float, *, subset: str = "mlp_27_only", n_samples: int = 2) -> None:
    link_cell(
        layout,
        type(BASELINE)(subset, scale),
        fingerprint=condition(scale).fingerprint,
        problem_set_digest=write_problem_set(layout, problems(2)),
        n_samples=n_samples,
        run_id="run-9",
    )


def tables(layout: StoreLayout, digest: str = "c" * 64) -> tuple[pa.Table, pa.Table, pa.Table]:
    positions = positions_of(FINGERPRINT, continuation_digest=digest)
    samples = samples_of(FINGERPRINT, continuation_digest=digest)
    summaries = summarize(
        positions,
        samples,
        problem_set_digest=write_problem_set(layout, problems(2)),
        rules_digest=RULES,
        statistics=Statistics(resamples=100),
        run_id="run-2",
    )
    return positions, samples, summaries


def n_rows(layout: StoreLayout) -> list[int]:
    reads = (queries.continuation_positions, queries.continuation_samples, queries.continuation_summaries)
    return [read(layout).num_rows for read in reads]


def test_writing_again_replaces_all_of_it(layout: StoreLayout) -> None:
    for digest in ("c" * 64, "d" * 64):
        given = tables(layout, digest)
        write_continuation(layout, *given)
        assert n_rows(layout) == [table.num_rows for table in given]
        assert queries.continuation_positions(layout)["continuation_digest"].unique().to_pylist() == [digest]


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_an_empty_table_is_refused_and_nothing_is_stored(layout: StoreLayout, empty: int) -> None:
    given = [table.slice(0, 0) if i == empty else table for i, table in enumerate(tables(layout))]
    with pytest.raises(StorageError, match="an empty result is an error"):
        write_continuation(layout, *given)
    assert n_rows(layout) == [0, 0, 0]


def test_tables_of_two_computations_are_refused(layout: StoreLayout) -> None:
    positions, samples, _ = tables(layout)
    with pytest.raises(StorageError, match="have one continuation_digest; 2 were given"):
        write_continuation(layout, positions, samples, tables(layout, "d" * 64)[2])


def test_another_baseline_is_refused(layout: StoreLayout) -> None:
    given = tables(layout)
    write_detections(layout, detections_of(FINGERPRINT, keys(2, 2), "s" * 64), cell=BASELINE)
    with pytest.raises(StorageError, match="The baseline has changed since its continuation ablation was computed"):
        write_continuation(layout, *given)
    assert n_rows(layout) == [0, 0, 0]


def test_what_leaves_the_baseline_as_it_is_leaves_it_there(layout: StoreLayout) -> None:
    write_continuation(layout, *tables(layout))
    before = n_rows(layout)
    link(layout, 1.0)
    link(layout, 1.0, subset="another")
    write_detections(layout, detections_of(FINGERPRINT, keys(2, 2)), cell=BASELINE)
    write_detections(layout, detections_of(condition(0.0).fingerprint, keys(2, 2), "s" * 64), cell=ABLATED)
    assert n_rows(layout) == before


def test_other_rules_of_the_baseline_remove_it(layout: StoreLayout) -> None:
    write_continuation(layout, *tables(layout))
    write_detections(layout, detections_of(FINGERPRINT, keys(2, 2), "s" * 64), cell=BASELINE)
    assert n_rows(layout) == [0, 0, 0]


def test_other_completions_of_the_baseline_remove_it(layout: StoreLayout) -> None:
    write_continuation(layout, *tables(layout))
    link_cell(
        layout,
        BASELINE,
        fingerprint=condition(0.0).fingerprint,
        problem_set_digest=write_problem_set(layout, problems(2)),
        n_samples=2,
        run_id="run-9",
    )
    assert n_rows(layout) == [0, 0, 0]
