"""What a measure counts in each completion: its numerator and its denominator."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from backtracking_assets.errors import BacktrackingError
from backtracking_assets.measures import Measure
from backtracking_assets.records import COMPLETION_KEY, Cell, Subject

KEY = list(COMPLETION_KEY)
STEPS_COLUMN = "n_steps"

COUNT_COLUMNS: dict[str, tuple[str, str | None]] = {
    "wait_after_wrong_step": ("n_waits_after_wrong_step", "n_wrong_steps_followed"),
    "strict_rate": ("has_strict", None),
    "relaxed_rate": ("has_relaxed", None),
    "strict_per_1000_tokens": ("n_strict", "n_tokens"),
    "accuracy": ("correct", None),
    "accuracy_of_answered": ("correct", "answered"),
    "wait_after_right_step": ("n_waits_after_right_step", "n_right_steps_followed"),
    "wrong_step_share": ("n_wrong_steps", "n_steps"),
    "off_chain_share": ("n_off_chain_steps", "n_steps"),
    "corrected_share": ("n_corrected_steps", "n_wrong_steps_followed"),
    "genuine_share": ("is_genuine", None),
    "silent_share": ("is_silent", None),
    "filler_share": ("is_filler", None),
    "neither_share": ("is_none", None),
    "truncated_share": ("truncated", None),
    "degenerate_share": ("degenerate", None),
    "no_answer_share": ("no_answer", None),
    "non_finite_share": ("non_finite", None),
    "mean_tokens": ("n_tokens", None),
}
"""Columns of numerator and denominator by measure; None is 1 a completion."""


@dataclass(frozen=True)
class CellRows:
    """A cell or prompt variant: its completions (key, n_tokens and finish_reason suffice) and their detections."""

    cell: Subject
    completions: pa.Table
    detections: pa.Table


def cell_of(rows: CellRows) -> Cell:
    """The cell whose rows these are.

    Raises:
        BacktrackingError: they are those of a prompt variant, which has no scale.
    """
    if not isinstance(rows.cell, Cell):
        raise BacktrackingError(f"{rows.cell} is no cell of the sweep, so it has no scale; give a cell.")
    return rows.cell


def joined(rows: CellRows) -> pd.DataFrame:
    """Completions and detections of a cell joined by their key, in the order of problem_id and sample_id.

    Without the lists of the detections, which no measure counts in.

    Raises:
        BacktrackingError: there are no rows, their keys differ or repeat, they are of several fingerprints or rules,
            or only some have steps; the message names the cell.
    """
    completions = rows.completions.select([*KEY, "n_tokens", "finish_reason"]).to_pandas()
    scalar = [field.name for field in rows.detections.schema if not pa.types.is_list(field.type)]
    detections = rows.detections.select(scalar).to_pandas()
    if completions.empty:
        raise BacktrackingError(f"{rows.cell}: there are no completions to measure; generate the cell first.")
    for name, frame in (("completions", completions), ("detections", detections)):
        repeated = frame.loc[frame.duplicated(KEY), KEY]
        if len(repeated):
            raise BacktrackingError(f"{rows.cell}: {name} hold {_key(repeated)} twice; detect the cell anew.")
    merged = completions.merge(detections, on=KEY, how="outer", indicator=True)
    single = merged.loc[merged["_merge"] != "both", KEY]
    if len(single):
        raise BacktrackingError(
            f"{rows.cell}: {len(single)} of its completions and detections have no partner, the first is "
            f"{_key(single)}; detect the cell anew."
        )
    for column in ("fingerprint", "rules_digest"):
        if merged[column].nunique() > 1:
            raise BacktrackingError(f"{rows.cell}: its rows have more than one {column}; detect the cell anew.")
    if merged[STEPS_COLUMN].isna().nunique() > 1:
        raise BacktrackingError(f"{rows.cell}: steps were read in some of its rows only; detect the cell anew.")
    merged["no_answer"] = merged["verdict"] == "no_answer"
    merged["answered"] = ~merged["no_answer"]
    for name in ("genuine", "silent", "filler", "none"):
        merged[f"is_{name}"] = merged["completion_class"] == name
    merged["non_finite"] = merged["finish_reason"] == "non_finite"
    return merged.drop(columns="_merge").sort_values(["problem_id", "sample_id"], ignore_index=True)


def applies(measure: Measure, frames: Sequence[pd.DataFrame]) -> bool:
    """Whether a measure can be taken of these rows: what is counted in steps may not be known in all of them."""
    return not (measure.needs_steps and any(frame[COUNT_COLUMNS[measure.name][0]].isna().any() for frame in frames))


def counts(measure: Measure, frame: pd.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Numerator and denominator of a measure in each row: two arrays [rows].

    Raises:
        KeyError: the measure is no ratio of counts of the completions alone.
    """
    numerator, denominator = COUNT_COLUMNS[measure.name]
    ones = np.ones(len(frame))
    return (
        frame[numerator].to_numpy(dtype=np.float64),
        ones if denominator is None else frame[denominator].to_numpy(dtype=np.float64),
    )


def _key(keys: pd.DataFrame) -> str:
    first = keys.iloc[0]
    return (
        f"sample {first['sample_id']} of problem {first['problem_id']!r} (condition {str(first['fingerprint'])[:12]})"
    )
