"""The classes of many completions and of their events as columns; of arithmetic chains by arrays alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backtracking_assets.analysis.backtracking_classes import Classes
from backtracking_assets.analysis.event_columns import EventColumns, in_rows
from backtracking_assets.analysis.step_columns import StepColumns
from backtracking_assets.analysis.text_columns import Numbers
from backtracking_assets.records import CompletionClass, EventClass

_EVENTS: tuple[EventClass, ...] = get_args(EventClass)
_COMPLETIONS: tuple[CompletionClass, ...] = get_args(CompletionClass)


@dataclass(frozen=True, slots=True)
class ClassColumns:
    """Columns of `records.DETECTIONS`."""

    completions: pa.Array
    events: pa.Array
    """Of all events, one behind another."""
    n_genuine: Numbers
    n_filler: Numbers
    n_silent: Numbers


def class_columns(classes: Sequence[Classes], events: EventColumns) -> ClassColumns:
    """Classes of texts, one by one, as columns."""
    of_events = list(chain.from_iterable([own.events for own in classes]))
    n_genuine, n_filler = (
        np.bincount(events.rows[np.array([own == name for own in of_events], dtype=bool)], minlength=len(classes))
        for name in ("genuine", "filler")
    )
    return ClassColumns(
        pa.array([own.completion for own in classes], type=pa.string()),
        pa.array(of_events, type=pa.string()),
        n_genuine,
        n_filler,
        np.fromiter((own.n_silent for own in classes), dtype=np.int64, count=len(classes)),
    )


def chain_classes(
    lengths: Numbers,
    events: EventColumns,
    steps: StepColumns,
    degenerate: npt.NDArray[np.bool_],
    cut_off: npt.NDArray[np.bool_],
) -> ClassColumns:
    """`classify_chain` of each text.

    Args:
        lengths: characters of each text, as are the next ones: shape [texts].
    """
    n = len(lengths)
    windows = _windows(lengths, events, steps)
    rows = np.searchsorted(steps.firsts, steps.redos, side="right") - 1
    starts, ends = in_rows(rows, steps.starts[steps.redos]), in_rows(rows, steps.ends[steps.redos])
    # An event announces the redos that begin within its window and end behind its start.
    first = np.searchsorted(ends, in_rows(events.rows, events.starts), side="right")
    behind = np.searchsorted(starts, in_rows(events.rows, windows))
    genuine = first < behind
    changes = np.bincount(first[genuine], minlength=len(rows) + 1) - np.bincount(
        behind[genuine], minlength=len(rows) + 1
    )
    n_silent = np.bincount(rows[np.cumsum(changes[:-1]) == 0], minlength=n)
    cut = ~genuine & cut_off[events.rows] & (windows >= lengths[events.rows])
    n_genuine, n_cut = (np.bincount(events.rows[own], minlength=n) for own in (genuine, cut))
    n_filler = np.diff(events.offsets) - n_genuine - n_cut
    of_events = np.where(
        genuine, _EVENTS.index("genuine"), np.where(cut, _EVENTS.index("cut_off"), _EVENTS.index("filler"))
    )
    completion = np.full(n, _COMPLETIONS.index("none"))
    named: tuple[tuple[CompletionClass, npt.NDArray[np.bool_]], ...] = (
        ("cut_off", n_cut > 0),
        ("filler", n_filler > 0),
        ("silent", n_silent > 0),
        ("genuine", n_genuine > 0),
        ("degenerate", degenerate),
    )
    for name, own in named:  # the later one goes before
        completion[own] = _COMPLETIONS.index(name)
    return ClassColumns(
        pa.array(_COMPLETIONS).take(pa.array(completion)),
        pa.array(_EVENTS).take(pa.array(of_events)),
        n_genuine,
        n_filler,
        n_silent,
    )


def _windows(lengths: Numbers, events: EventColumns, steps: StepColumns) -> Numbers:
    """Where the first step behind each event ends, or the text if there is none."""
    step_rows = np.repeat(np.arange(len(lengths)), np.diff(steps.firsts))
    places = np.searchsorted(in_rows(step_rows, steps.ends), in_rows(events.rows, events.ends))
    found = lengths[events.rows]
    within = places < steps.firsts[events.rows + 1]
    found[within] = steps.ends[places[within]]
    return found
