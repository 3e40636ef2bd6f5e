"""Problem sets, layer subsets, and queries by them."""

from pathlib import Path

import pytest

from backtracking_assets.conditions import Composition, problem_set_digest
from backtracking_assets.errors import StorageError
from backtracking_assets.records import Problem
from backtracking_assets.storage import queries
from backtracking_assets.storage.commits import link_cell, write_detections
from backtracking_assets.storage.input_commits import Inputs, SubsetRow, write_layer_subset, write_problem_set
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import keys_of
from backtracking_assets_tests.unit.storage_samples import (
    ABLATED,
    RULES,
    detections_of,
    generate,
    keys,
    problems,
)
from backtracking_assets_tests.unit.study_samples import BASE, DIGEST, LESS


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    return StoreLayout(tmp_path)


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


def test_a_link_stores_what_its_completions_are_asked_of_or_nothing(layout: StoreLayout) -> None:
    generate(layout, LESS, keys(2, 2))
    facts = {"fingerprint": LESS.fingerprint, "n_samples": 2, "run_id": "run-1"}
    subset = SubsetRow("single", Composition(((27, "mlp"),)), control_of="other")
    three = Inputs(problems(3), subset)
    with pytest.raises(StorageError, match="4 of its 6 completions"):
        link_cell(layout, ABLATED, problem_set_digest=problem_set_digest(problems(3)), inputs=three, **facts)
    assert queries.problems(layout, problem_set_digest(problems(3))) == []
    assert queries.layer_subsets(layout).num_rows == 0
    for _ in range(2):
        link_cell(layout, ABLATED, problem_set_digest=DIGEST, inputs=Inputs(problems(2), subset), **facts)
    assert queries.problems(layout, DIGEST) == problems(2)
    assert queries.layer_subsets(layout)["control_of"].to_pylist() == ["other"]
    assert queries.chunk_sizes(layout, fingerprint=LESS.fingerprint) == queries.chunk_sizes(layout) != {}
    assert queries.chunk_sizes(layout, fingerprint=BASE.fingerprint) == {}
