"""Completions whose totals are known by counting, for the tests of phase 1."""

from collections.abc import Iterable

import pyarrow as pa

from backtracking_assets.analysis.counts import CellRows
from backtracking_assets.records import COMPLETIONS, DETECTIONS, Cell, Problem

RIGHT, WRONG, NONE = "correct", "wrong", "no_answer"
Given = tuple[str, int, bool, str]
"""Problem, sample, whether it has a strict trigger, verdict."""

# With a trigger: 3 of 4 right (of those with an answer 3 of 3). Without: 2 of 5 right (2 of 4).
# p1: with 1 of 1, without 1 of 2; p2: with 1 of 2, without 0 of 1; p3: with 1 of 1, without 1 of 2.
COUNTED: tuple[Given, ...] = (
    ("p1", 0, True, RIGHT),
    ("p1", 1, False, RIGHT),
    ("p1", 2, False, WRONG),
    ("p2", 0, True, RIGHT),
    ("p2", 1, True, NONE),
    ("p2", 2, False, WRONG),
    ("p3", 0, True, RIGHT),
    ("p3", 1, False, RIGHT),
    ("p3", 2, False, NONE),
)
PROBLEMS = {name: Problem(name, "1 + 1", "2") for name in ("p1", "p2", "p3")}


def cell_rows(
    given: Iterable[Given] = COUNTED,
    *,
    fingerprint: str = "baseline",
    cell: Cell = Cell("attn_1", 1.0),  # noqa: B008
    n_firings: int = 0,
    shuffled: bool = False,
) -> CellRows:
    """Completions and detections of one condition; where shuffled, the two in other orders."""
    rows = list(given)
    completions = [_completion(row[0], row[1], fingerprint=fingerprint, n_firings=n_firings) for row in rows]
    detections = [_detection(*row, fingerprint=fingerprint) for row in rows]
    if shuffled:
        completions, detections = completions[::-1], detections[2:] + detections[:2]
    return CellRows(
        cell, pa.Table.from_pylist(completions, COMPLETIONS), pa.Table.from_pylist(detections, schema=DETECTIONS)
    )


def _completion(problem_id: str, sample_id: int, *, fingerprint: str, n_firings: int) -> dict:
    values = {name: _filler(COMPLETIONS.field(name)) for name in COMPLETIONS.names}
    return values | {
        "fingerprint": fingerprint,
        "problem_id": problem_id,
        "sample_id": sample_id,
        "n_tokens": 10,
        "finish_reason": "eos",
        "n_firings": n_firings,
    }


def _detection(problem_id: str, sample_id: int, strict: bool, verdict: str, *, fingerprint: str) -> dict:
    values = {name: _filler(DETECTIONS.field(name)) for name in DETECTIONS.names}
    return values | {
        "fingerprint": fingerprint,
        "problem_id": problem_id,
        "sample_id": sample_id,
        "rules_digest": "rules",
        "has_strict": strict,
        "has_relaxed": strict,
        "n_strict": int(strict),
        "first_strict_token": 3 if strict else None,
        "verdict": verdict,
        "correct": verdict == RIGHT,
        "answer": None if verdict == NONE else "2" if verdict == RIGHT else "3",
    }


def _filler(field: pa.Field) -> object:
    if field.nullable:
        return None
    if pa.types.is_list(field.type):
        return []
    return {pa.bool_(): False, pa.string(): "-", pa.float64(): 1.0}.get(field.type, 0)
