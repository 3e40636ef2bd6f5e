"""Counts joined by arrays are those joined by frames; whatever does not fit is left to the frames, which say what."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from backtracking_assets.analysis.counted_rows import from_frame, in_order_of
from backtracking_assets.analysis.counts import CellRows, joined
from backtracking_assets_tests.unit.analysis_samples import RULES
from backtracking_assets_tests.unit.test_analysis_comparisons import N_PROBLEMS, cell_rows

N_ROWS = 4 * N_PROBLEMS


def with_values(table: pa.Table, name: str, values: list) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


@pytest.mark.parametrize("steps", ["arithmetic_chain", None])
def test_counts_are_those_of_the_frame_in_any_order_of_rows(steps: str | None) -> None:
    rules = RULES.model_copy(update={"steps": steps})
    reference = from_frame(joined(cell_rows("baseline", seed=0, rules=rules)))
    cell = cell_rows("other", seed=1, rules=rules)
    orders = [np.random.default_rng(seed).permutation(N_ROWS) for seed in (0, 1)]
    turned = CellRows(cell.cell, cell.completions.take(orders[0]), cell.detections.take(orders[1]))
    expected, found = from_frame(joined(cell)), in_order_of(reference, turned)
    assert found is not None
    assert (found.fingerprint, found.rules_digest, found.names) == (
        expected.fingerprint,
        expected.rules_digest,
        expected.names,
    )
    assert np.array_equal(found.values, expected.values, equal_nan=True)
    assert found.code.tolist() == expected.code.tolist()


def test_rows_that_do_not_fit_are_not_counted() -> None:
    reference = from_frame(joined(cell_rows("baseline", seed=0)))
    cell = cell_rows("other", seed=1)
    completions, detections = cell.completions, cell.detections
    steps, problems = detections["n_steps"].to_pylist(), completions["problem_id"].to_pylist()
    samples = completions["sample_id"].to_pylist()
    wrong = {
        "a row is missing": replace(cell, completions=completions.slice(1)),
        "a detection is missing": replace(cell, detections=detections.slice(1)),
        "a key is there twice": replace(cell, completions=completions.take([0, *range(N_ROWS - 1)])),
        "another problem": replace(
            cell,
            completions=with_values(completions, "problem_id", ["p999", *problems[1:]]),
        ),
        "another sample": replace(cell, completions=with_values(completions, "sample_id", [7, *samples[1:]])),
        "two fingerprints": replace(
            cell, detections=with_values(detections, "fingerprint", ["x", *detections["fingerprint"][1:].to_pylist()])
        ),
        "other rules": replace(cell, detections=with_values(detections, "rules_digest", ["x"] * N_ROWS)),
        "steps in some rows": replace(cell, detections=with_values(detections, "n_steps", [None, *steps[1:]])),
    }
    assert in_order_of(reference, cell) is not None
    for what, rows in wrong.items():
        assert in_order_of(reference, rows) is None, what
