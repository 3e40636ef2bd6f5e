"""Detections, metrics, comparisons and checks: results never outlive what they were computed from."""

from pathlib import Path

import pyarrow as pa
import pytest

from backtracking_assets.conditions import Composition
from backtracking_assets.errors import StorageError
from backtracking_assets.records import METRICS
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import compact
from backtracking_assets.storage.chunks import chunk_of
from backtracking_assets.storage.commits import (
    commit_condition,
    write_checks,
    write_comparisons,
    write_detections,
    write_metrics,
)
from backtracking_assets.storage.database import reading
from backtracking_assets.storage.input_commits import write_layer_subset
from backtracking_assets.storage.journal import finish_chunk
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.unit.storage_samples import (
    ABLATED,
    BASELINE,
    RULES,
    checks_of,
    comparison_of,
    completions_of,
    detections_of,
    generate,
    keys,
    metrics_of,
)
from backtracking_assets_tests.unit.study_samples import BASE, DIGEST, LESS, left, link, measure


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    return StoreLayout(tmp_path)


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


def test_checks_that_are_given_with_what_they_are_of_are_stored_with_it_or_not_at_all(study: StoreLayout) -> None:
    found = detections_of(LESS.fingerprint, keys(2, 2), n_strict=7)
    write_detections(study, found, cell=ABLATED, checks=checks_of(ABLATED, "detections", "read"))
    write_metrics(
        study,
        metrics_of(ABLATED, LESS.fingerprint, DIGEST),
        checks=checks_of(ABLATED, "metrics", "above", passed=False),
    )
    assert check_names(study) == [("detections", "read"), ("metrics", "above")]
    assert queries.failing_checks(study)["name"].to_pylist() == ["above"]
    assert queries.failing_checks(study, scale=1.0).num_rows == 0
    assert queries.checks(study, cell=BASELINE).num_rows == queries.metrics(study, cell=BASELINE).num_rows == 0
    assert queries.checks(study, cell=ABLATED).num_rows == 2
    other = detections_of(LESS.fingerprint, keys(2, 2), n_strict=8)
    with pytest.raises(StorageError, match="was never linked"):
        write_detections(study, other, cell=ABLATED, checks=checks_of(BASELINE, "detections", "read"))
    assert set(queries.detections(study, LESS.fingerprint, RULES)["n_strict"].to_pylist()) == {7}


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
