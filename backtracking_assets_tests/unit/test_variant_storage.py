"""Prompt variants in the database: they point to conditions as cells do, and share them."""

from pathlib import Path

import pytest

from backtracking_assets.conditions import problem_set_digest
from backtracking_assets.errors import StorageError
from backtracking_assets.records import COMPLETIONS, Cell, Variant
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import compact
from backtracking_assets.storage.chunks import chunk_of
from backtracking_assets.storage.commits import (
    commit_condition,
    link_cell,
    write_checks,
    write_detections,
    write_metrics,
)
from backtracking_assets.storage.input_commits import write_problem_set
from backtracking_assets.storage.journal import finish_chunk
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.overview import overview
from backtracking_assets.storage.rows import table_of
from backtracking_assets.variant_records import VARIANT_CHECKS, VARIANT_METRICS
from backtracking_assets_tests.unit.storage_samples import (
    BASELINE,
    RULES,
    checks_of,
    completion_row,
    condition,
    detections_of,
    generate,
    keys,
    metrics_of,
    problems,
)

BASE, VARIANT = condition(1.0), Variant("plain")
CELL_PROBLEMS, ALL_PROBLEMS = problem_set_digest(problems(2)), problem_set_digest(problems(3))


@pytest.fixture
def study(tmp_path: Path) -> StoreLayout:
    """A variant of three problems and a cell of two of them, on one condition; both are read and measured."""
    layout = StoreLayout(tmp_path / "store")
    generate(layout, BASE, keys(3, 2))
    for subject, n_problems in ((VARIANT, 3), (BASELINE, 2)):
        digest = write_problem_set(layout, problems(n_problems))
        link(layout, subject, digest)
        write_detections(layout, detections_of(BASE.fingerprint, keys(n_problems, 2)), cell=subject)
    write_metrics(layout, variant_metrics())
    write_metrics(layout, metrics_of(BASELINE, BASE.fingerprint, CELL_PROBLEMS))
    write_checks(layout, variant_checks())
    write_checks(layout, checks_of(BASELINE, "metrics", "accuracy_above_shuffled"))
    return layout


def link(layout: StoreLayout, subject: Cell | Variant, digest: str, n_samples: int = 2) -> int:
    return link_cell(
        layout,
        subject,
        fingerprint=BASE.fingerprint,
        problem_set_digest=digest,
        n_samples=n_samples,
        run_id="run-1",
    )


def variant_metrics(rules: str = RULES):
    of_cell = metrics_of(BASELINE, BASE.fingerprint, ALL_PROBLEMS, rules)
    kept = [{k: v for k, v in row.items() if k not in ("layer_subset", "scale")} for row in of_cell.to_pylist()]
    return table_of([{"variant": VARIANT.name, **row} for row in kept], VARIANT_METRICS)


def variant_checks(asset: str = "variant_metrics"):
    facts = {"passed": True, "severity": "error", "description": "made up", "run_id": "run-5"}
    return table_of([{"variant": VARIANT.name, "asset": asset, "name": "some_check", **facts}], VARIANT_CHECKS)


def left(layout: StoreLayout) -> dict[str, int]:
    found = (queries.variant_metrics, queries.variant_checks, queries.metrics, queries.checks)
    return {query.__name__: query(layout).num_rows for query in found}


ALL = {"variant_metrics": 2, "variant_checks": 1, "metrics": 2, "checks": 1}


def test_a_variant_and_a_cell_share_a_condition_and_keep_their_own_results(study: StoreLayout) -> None:
    assert left(study) == ALL
    (variant,), (cell,) = queries.variants(study).to_pylist(), queries.cells(study).to_pylist()
    assert (variant["n_completions"], variant["linked"], variant["rules_digest"]) == (6, False, RULES)
    assert (cell["n_completions"], cell["linked"], cell["rules_digest"]) == (4, True, RULES)
    held = overview(study, ["p000"], 1)
    assert held.variants[VARIANT]["fingerprint"] == BASE.fingerprint
    assert held.variant_statistics == {VARIANT: "statistics"}
    assert [row["name"] for row in held.variant_checks] == ["some_check"]


def test_another_link_of_the_variant_removes_its_results_and_not_the_cells(study: StoreLayout) -> None:
    assert link(study, VARIANT, ALL_PROBLEMS) == 6
    assert left(study) == ALL  # the same link says nothing new
    assert link(study, VARIANT, CELL_PROBLEMS) == 4
    assert left(study) == {**ALL, "variant_metrics": 0, "variant_checks": 0}
    with pytest.raises(StorageError, match="Prompt variant plain has changed since its metrics were computed"):
        write_metrics(study, variant_metrics())


def test_other_rules_remove_what_was_read_by_the_earlier_ones(study: StoreLayout) -> None:
    write_checks(study, variant_checks("variant_generations"))
    write_detections(study, detections_of(BASE.fingerprint, keys(3, 2), "s" * 64), cell=VARIANT)
    assert left(study) == {**ALL, "variant_metrics": 0}
    assert queries.variant_checks(study)["asset"].to_pylist() == ["variant_generations"]


def test_detections_of_some_completions_alone_are_refused(study: StoreLayout) -> None:
    with pytest.raises(StorageError, match="Prompt variant plain: 2 of its completions have no detection"):
        write_detections(study, detections_of(BASE.fingerprint, keys(2, 2), "s" * 64), cell=VARIANT)
    assert left(study) == ALL


def test_replaced_completions_take_the_variants_results_along(study: StoreLayout) -> None:
    study.archive_of(BASE.fingerprint).unlink()
    chunk = chunk_of(BASE.fingerprint, keys(3, 2))
    rows = [completion_row(BASE.fingerprint, chunk.chunk_id, key, n_firings=0) for key in chunk.keys]
    finish_chunk(study, BASE.fingerprint, chunk, table_of(rows, COMPLETIONS))
    compact(study, BASE)
    commit_condition(study, BASE, run_id="run-9")
    assert left(study) == dict.fromkeys(ALL, 0)
    assert queries.variants(study)["rules_digest"].to_pylist() == [None]


def test_what_is_of_nothing_is_refused(study: StoreLayout) -> None:
    other = variant_checks().set_column(0, "variant", [["other"]])
    with pytest.raises(StorageError, match="Prompt variant other was never linked to a condition"):
        write_checks(study, other)
    with pytest.raises(StorageError, match="Prompt variant plain has 6 of its 9 completions in the database"):
        link(study, VARIANT, ALL_PROBLEMS, n_samples=3)
    assert left(study) == ALL
