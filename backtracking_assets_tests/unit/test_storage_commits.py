"""Transactions and queries: rows are replaced by key, and results never outlive what they were computed from."""

import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest

from backtracking_assets.conditions import Composition, problem_set_digest
from backtracking_assets.errors import StorageError
from backtracking_assets.records import COMPLETIONS, DETECTIONS, METRICS, Cell, Problem
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import compact, read_archive
from backtracking_assets.storage.chunks import chunk_of
from backtracking_assets.storage.commits import (
    commit_condition,
    link_cell,
    write_checks,
    write_comparisons,
    write_detections,
    write_metrics,
)
from backtracking_assets.storage.database import reading
from backtracking_assets.storage.input_commits import write_layer_subset, write_problem_set
from backtracking_assets.storage.journal import clear_journal, finish_chunk
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.parquet import DamagedFileError
from backtracking_assets.storage.rows import keys_of
from backtracking_assets_tests.unit.storage_samples import (
    ABLATED,
    BASELINE,
    RULES,
    checks_of,
    comparison_of,
    completion_row,
    completions_of,
    condition,
    detections_of,
    generate,
    keys,
    metrics_of,
    problems,
    table_of,
)

BASE, LESS = condition(1.0), condition(0.0)
DIGEST = problem_set_digest(problems(2))


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    return StoreLayout(tmp_path)


def link(layout: StoreLayout, cell: Cell, n_problems: int = 2, n_samples: int = 2) -> str:
    digest = write_problem_set(layout, problems(n_problems))
    of = BASE if cell.scale == 1.0 else LESS
    link_cell(
        layout,
        cell,
        fingerprint=of.fingerprint,
        problem_set_digest=digest,
        n_samples=n_samples,
        run_id="run-1",
    )
    return digest


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one ablated cell of two problems and two samples, and everything that follows from them."""
    layout = StoreLayout(tmp_path_factory.mktemp("measured"))
    measure(layout, ABLATED)
    return layout.root


@pytest.fixture
def study(measured: Path, tmp_path: Path) -> StoreLayout:
    """A copy of `measured` to change."""
    return StoreLayout(Path(shutil.copytree(measured, tmp_path / "study")))


def measure(layout: StoreLayout, cell: Cell) -> None:
    of = BASE if cell.scale == 1.0 else LESS
    generate(layout, of, keys(2, 2))
    link(layout, cell)
    write_detections(layout, detections_of(of.fingerprint, keys(2, 2)), cell=cell)
    write_metrics(layout, metrics_of(cell, of.fingerprint, DIGEST))
    write_comparisons(layout, comparison_of(cell, of.fingerprint, BASE.fingerprint, DIGEST), cells=[cell])


def left(layout: StoreLayout) -> dict[str, int]:
    return {
        "detections": queries.detections(layout, LESS.fingerprint, RULES).num_rows,
        "metrics": queries.metrics(layout).num_rows,
        "comparisons": queries.comparisons(layout).num_rows,
    }


def generations(layout: StoreLayout, cell: Cell) -> pa.Table:
    with reading(layout) as connection:
        sql = "from generations where layer_subset = ? and scale = ? order by problem_id, sample_id"
        return connection.sql(sql, params=[cell.layer_subset, cell.scale]).to_arrow_table()


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


def test_detections_replace_those_of_the_same_rules_and_keys(layout: StoreLayout) -> None:
    generate(layout, LESS, keys(2, 2))
    write_detections(layout, detections_of(LESS.fingerprint, keys(2, 2)))
    write_detections(layout, detections_of(LESS.fingerprint, keys(1, 2), n_strict=5))
    write_detections(layout, detections_of(LESS.fingerprint, keys(1, 1), "0" * 64))
    assert queries.detections(layout, LESS.fingerprint, RULES)["n_strict"].to_pylist() == [5, 5, 1, 1]
    assert queries.detected_keys(layout, LESS.fingerprint, "0" * 64) == {("p000", 0)}


def test_detections_that_fit_nothing_are_refused(layout: StoreLayout) -> None:
    generate(layout, LESS, keys(2, 2))
    link(layout, ABLATED)
    good = detections_of(LESS.fingerprint, keys(2, 2))
    for wrong, cell, reason in (
        (good.slice(0, 0), None, "no detections"),
        (detections_of(LESS.fingerprint, keys(3, 1)), None, "1 detections belong to no stored completion"),
        (pa.concat_tables([good, detections_of(LESS.fingerprint, keys(1, 1), "0" * 64)]), None, "one rules_digest"),
        (good.slice(1), ABLATED, "1 of its completions have no detection"),
        (good, BASELINE, "does not point to condition"),
        (pa.concat_tables([good, good]), None, "refused a statement"),
    ):
        with pytest.raises(StorageError, match=reason):
            write_detections(layout, wrong, cell=cell)
    assert left(layout)["detections"] == 0


def test_new_rules_remove_the_results_by_the_old_ones(study: StoreLayout) -> None:
    write_detections(study, detections_of(LESS.fingerprint, keys(2, 2)), cell=ABLATED)
    assert left(study)["metrics"] == 2
    write_detections(study, detections_of(LESS.fingerprint, keys(2, 2), "0" * 64), cell=ABLATED)
    assert left(study) == {"detections": 4, "metrics": 0, "comparisons": 0}
    with pytest.raises(StorageError, match="has changed since its metrics were computed"):
        write_metrics(study, metrics_of(ABLATED, LESS.fingerprint, DIGEST))
    with pytest.raises(StorageError, match="has changed since its comparisons were computed"):
        write_comparisons(study, comparison_of(ABLATED, LESS.fingerprint, BASE.fingerprint, DIGEST))


def test_metrics_replace_the_rows_of_their_cells_only(study: StoreLayout) -> None:
    measure(study, BASELINE)
    fewer = metrics_of(BASELINE, BASE.fingerprint, DIGEST, estimate=None).slice(0, 1)
    write_metrics(study, fewer)
    rows = queries.metrics(study).to_pylist()
    assert [(row["scale"], row["metric"], row["estimate"]) for row in rows] == [
        (0.0, "accuracy", 0.5),
        (0.0, "strict_rate", 0.5),
        (1.0, "strict_rate", None),
    ]
    with pytest.raises(StorageError, match="no metrics"):
        write_metrics(study, fewer.slice(0, 0))
    with pytest.raises(StorageError, match="does not fit"):
        write_metrics(study, fewer.drop_columns(["n"]))
    assert queries.metrics(study).schema.equals(METRICS)


def test_comparisons_replace_all_or_the_given_cells(study: StoreLayout) -> None:
    measure(study, BASELINE)
    assert queries.comparisons(study)["scale"].to_pylist() == [0.0, 1.0]
    row = comparison_of(ABLATED, LESS.fingerprint, BASE.fingerprint, DIGEST, difference=-0.125)
    write_comparisons(study, row, cells=[ABLATED])
    assert queries.comparisons(study)["difference"].to_pylist() == [-0.125, -0.25]
    with pytest.raises(StorageError, match="another cell: mlp_27_only at 0"):
        write_comparisons(study, row, cells=[BASELINE])
    write_comparisons(study, row)
    assert queries.comparisons(study).equals(row)


def check_names(study: StoreLayout) -> list[tuple[str, str]]:
    rows = queries.checks(study).to_pylist()
    return [(row["asset"], row["name"]) for row in rows]


def test_checks_replace_those_of_their_asset_and_go_with_what_they_checked(study: StoreLayout) -> None:
    write_checks(study, checks_of(ABLATED, "generations", "rows", "gone"))
    write_checks(study, checks_of(ABLATED, "generations", "rows", passed=False))
    write_checks(study, checks_of(ABLATED, "metrics", "accuracy"))
    assert check_names(study) == [("generations", "rows"), ("metrics", "accuracy")]
    assert queries.checks(study)["passed"].to_pylist() == [False, True]
    write_detections(study, detections_of(LESS.fingerprint, keys(2, 2), "0" * 64), cell=ABLATED)
    assert check_names(study) == [("generations", "rows")]
    link(study, ABLATED, n_samples=1)
    assert check_names(study) == []


def test_checks_of_nothing_or_of_two_cells_are_refused(study: StoreLayout) -> None:
    one = checks_of(ABLATED, "metrics", "accuracy")
    for wrong, reason in (
        (one.slice(0, 0), "no checks"),
        (pa.concat_tables([one, checks_of(BASELINE, "metrics", "accuracy")]), "one cell at a time"),
        (pa.concat_tables([one, checks_of(ABLATED, "detections", "answers")]), "one asset at a time"),
        (checks_of(BASELINE, "metrics", "accuracy"), "never linked"),
    ):
        with pytest.raises(StorageError, match=reason):
            write_checks(study, wrong)
    assert check_names(study) == []


def test_a_changed_baseline_takes_all_comparisons_with_it_along(study: StoreLayout) -> None:
    generate(study, BASE, keys(2, 2))
    study.archive_of(BASE.fingerprint).unlink()
    chunk = chunk_of(BASE.fingerprint, keys(2, 2))
    finish_chunk(study, BASE.fingerprint, chunk, completions_of(BASE.fingerprint, chunk, text="another"))
    compact(study, BASE)
    commit_condition(study, BASE, run_id="run-9")
    assert left(study) == {"detections": 4, "metrics": 2, "comparisons": 0}


def test_results_show_each_metric_with_its_difference(study: StoreLayout) -> None:
    write_layer_subset(study, "mlp_27_only", Composition(((27, "mlp"),)))
    with reading(study) as connection:
        rows = connection.execute(
            "select metric, estimate, difference, p_holm, components from results order by metric"
        ).fetchall()
    assert rows == [("accuracy", 0.5, None, None, ["mlp.27"]), ("strict_rate", 0.5, -0.25, 0.06, ["mlp.27"])]


def test_problem_sets_come_back_whatever_their_order_and_stay_apart(layout: StoreLayout) -> None:
    layout.prepare()
    digest = write_problem_set(layout, problems(3)[::-1])
    assert write_problem_set(layout, problems(3)) == digest
    other = write_problem_set(layout, [Problem("p000", "What?", "1")])
    assert queries.problems(layout, digest) == problems(3)
    assert queries.problems(layout, other) == [Problem("p000", "What?", "1")]
    assert queries.problems(layout, "0" * 64) == []
    for wrong in ([], [Problem("p", "a", "1"), Problem("p", "b", "2")]):
        with pytest.raises(StorageError, match="at least one problem, and an id"):
            write_problem_set(layout, wrong)


def test_a_layer_subset_is_replaced_by_name_and_known_by_composition(layout: StoreLayout) -> None:
    layout.prepare()
    first = write_layer_subset(layout, "pair", Composition(((27, "mlp"), (0, "attention"))))
    assert write_layer_subset(layout, "pair", Composition(((0, "attention"), (27, "mlp"))), control_of="other") == first
    assert write_layer_subset(layout, "single", Composition(((27, "mlp"),))) != first
    rows = queries.layer_subsets(layout).to_pylist()
    assert [(row["layer_subset"], row["components"], row["control_of"]) for row in rows] == [
        ("pair", ["attention.0", "mlp.27"], "other"),
        ("single", ["mlp.27"], None),
    ]


def test_queries_by_problem_set_and_samples(layout: StoreLayout) -> None:
    generate(layout, LESS, keys(3, 3))
    write_detections(layout, detections_of(LESS.fingerprint, keys(3, 3)))
    digest = write_problem_set(layout, problems(2))
    found = queries.completions(layout, LESS.fingerprint, problem_set_digest=digest, n_samples=2)
    assert keys_of(found) == keys(2, 2)
    found = queries.detections(layout, LESS.fingerprint, RULES, problem_set_digest=digest, n_samples=1)
    assert keys_of(found) == keys(2, 1)


def test_a_name_with_quotes_is_a_value_and_never_sql(layout: StoreLayout) -> None:
    layout.prepare()
    name = "x'; drop table cells; --"
    write_layer_subset(layout, name, Composition(((0, "mlp"),)))
    assert queries.layer_subsets(layout)["layer_subset"].to_pylist() == [name]
    assert queries.completions(layout, name).num_rows == 0
    assert queries.cells(layout).num_rows == 0


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
