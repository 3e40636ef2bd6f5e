"""What measures count in the rows of a cell, as arrays in the order of a baseline that it is paired with."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from backtracking_assets.analysis.counts import COUNT_COLUMNS, STEPS_COLUMN, CellRows
from backtracking_assets.analysis.resampling import Column, resampled_columns
from backtracking_assets.measures import Measure

_Floats = npt.NDArray[np.float64]

ONES = "(1 a row)"
"""Stands for the denominator of a measure that is counted once a completion."""


@dataclass(frozen=True, eq=False)
class CountedRows:
    """The counts of one cell's completions, in the order of problem_id and sample_id."""

    fingerprint: str
    rules_digest: str
    problems: npt.NDArray[np.object_]
    """Its problems, sorted: [problems]."""
    problem: npt.NDArray[np.intp]
    """The number of each row's problem: [rows]."""
    sample: npt.NDArray[np.int64]
    """[rows]"""
    names: tuple[str, ...]
    values: _Floats
    """Counts by column and row, NaN where a count is NULL: [columns, rows]."""

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def code(self) -> npt.NDArray[np.int64]:
        """A number for each row's key, which rises from row to row."""
        return self.problem * (int(self.sample.max()) + 1) + self.sample

    def of_rows(self, name: str) -> _Floats:
        """A column: [rows]."""
        return self.values[self._place[name]]

    def has(self, measure: Measure) -> bool:
        """Whether what the measure counts is known in all rows."""
        return not (measure.needs_steps and np.isnan(self.of_rows(columns_of(measure)[0])).any())

    def columns(self, names: list[str], *, resamples: int, seed: int) -> dict[str, Column]:
        """Columns by problem, and resampled: the problems are drawn.

        Raises:
            ValueError: a value is not finite.
        """
        rows = self.values[[self._place[name] for name in names]]
        if not np.isfinite(rows).all():
            raise ValueError("a value is not finite")
        starts = np.flatnonzero(np.diff(self.problem, prepend=-1))
        sums = np.add.reduceat(rows, starts, axis=1)
        return dict(zip(names, resampled_columns(sums, resamples=resamples, seed=seed), strict=True))


def columns_of(measure: Measure) -> tuple[str, str]:
    """The columns of a measure's numerator and denominator."""
    numerator, denominator = COUNT_COLUMNS[measure.name]
    return numerator, ONES if denominator is None else denominator


_NAMES = tuple(dict.fromkeys(name or ONES for pair in COUNT_COLUMNS.values() for name in pair))


def from_frame(frame: pd.DataFrame) -> CountedRows:
    """The counts of a frame that `counts.joined` made."""
    problems, problem = np.unique(frame["problem_id"].to_numpy(), return_inverse=True)
    columns = [
        np.ones(len(frame)) if name == ONES else frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        for name in _NAMES
    ]
    return CountedRows(
        fingerprint=str(frame["fingerprint"].iloc[0]),
        rules_digest=str(frame["rules_digest"].iloc[0]),
        problems=problems,
        problem=problem,
        sample=frame["sample_id"].to_numpy(dtype=np.int64),
        names=_NAMES,
        values=np.stack(columns),
    )


def in_order_of(reference: CountedRows, rows: CellRows) -> CountedRows | None:
    """The counts of a cell whose keys are those of the reference, read by the same rules, joined by key.

    None where anything does not fit, whatever it is: `counts.joined` says what.
    """
    problems = pa.array(reference.problems, pa.string())
    completions, detections = rows.completions, rows.detections
    fingerprint = _only(completions, "fingerprint")
    if fingerprint is None or fingerprint != _only(detections, "fingerprint"):
        return None
    if _only(detections, "rules_digest") != reference.rules_digest:
        return None
    order = [_order(table, problems, reference) for table in (completions, detections)]
    if order[0] is None or order[1] is None:
        return None
    if detections[STEPS_COLUMN].null_count not in (0, detections.num_rows):
        return None
    derived = _derived(completions, detections)
    values = np.empty((len(_NAMES), len(reference.problem)))
    for place, name in enumerate(_NAMES):
        if name == ONES:
            values[place] = 1.0
        elif name in derived:
            of_completion, column = derived[name]
            values[place] = _floats(column)[order[0] if of_completion else order[1]]
        else:
            values[place] = _floats(detections[name])[order[1]]
    return CountedRows(
        fingerprint,
        reference.rules_digest,
        reference.problems,
        reference.problem,
        reference.sample,
        _NAMES,
        values,
    )


def _order(table: pa.Table, problems: pa.Array, reference: CountedRows) -> npt.NDArray[np.intp] | None:
    """The place of each of the reference's rows in a table; None where the table has not exactly these rows."""
    if table.num_rows != len(reference.problem):
        return None
    problem = pc.index_in(table["problem_id"], value_set=problems)
    if problem.null_count:
        return None
    sample = table["sample_id"].to_numpy().astype(np.int64)
    if (sample < 0).any() or (sample > reference.sample.max()).any():
        return None
    code = problem.to_numpy().astype(np.int64) * (int(reference.sample.max()) + 1) + sample
    order = np.argsort(code, kind="stable")
    return order if np.array_equal(code[order], reference.code) else None


def _only(table: pa.Table, name: str) -> str | None:
    """The one value of a column; None where it has none or several."""
    values = table[name].unique()
    return values[0].as_py() if len(values) == 1 else None


def _derived(completions: pa.Table, detections: pa.Table) -> dict[str, tuple[bool, pa.ChunkedArray]]:
    """Columns that follow from others, or stand in the completions: whether they do, and their values."""
    no_answer = pc.equal(detections["verdict"], "no_answer")
    found = {"no_answer": (False, no_answer), "answered": (False, pc.invert(no_answer))}
    for name in ("genuine", "silent", "filler", "none"):
        found[f"is_{name}"] = False, pc.equal(detections["completion_class"], name)
    found["non_finite"] = True, pc.equal(completions["finish_reason"], "non_finite")
    found["n_tokens"] = True, completions["n_tokens"]
    return found


def _floats(column: pa.ChunkedArray) -> _Floats:
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    return pc.cast(column, pa.float64()).to_numpy() if not pa.types.is_boolean(column.type) else _of_booleans(column)


def _of_booleans(column: pa.ChunkedArray) -> _Floats:
    return pc.cast(pc.cast(column, pa.uint8()), pa.float64()).to_numpy()
