"""The triggers of many texts one behind another, as the columns that `records.DETECTIONS` keeps of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backtracking_assets.analysis.text_columns import Numbers
from backtracking_assets.analysis.triggers import Event

_ROW_BITS = 32
"""Above the characters of a text, in keys that rise over all texts."""


@dataclass(frozen=True, slots=True)
class EventColumns:
    """Events of texts, in the order of the texts and of their start."""

    offsets: npt.NDArray[np.int32]
    """Where each text's events begin in the arrays below, shape [texts + 1]."""
    rows: Numbers
    """The text of each event."""
    phrases: Sequence[str]
    kinds: Sequence[str]
    starts: Numbers
    ends: Numbers

    def lists(self, values: pa.Array) -> pa.ListArray:
        """A list for each text of what there is for each event."""
        return pa.ListArray.from_arrays(pa.array(self.offsets), values)

    @property
    def strict(self) -> npt.NDArray[np.bool_]:
        """Whether each event is."""
        return np.array([kind == "strict" for kind in self.kinds], dtype=bool)

    def first_strict(self) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """The first strict event of each text, and which texts have none."""
        strict = np.flatnonzero(self.strict)
        bounds = np.searchsorted(strict, self.offsets)
        return np.concatenate([strict, [0]])[bounds[:-1]], bounds[:-1] == bounds[1:]

    def onsets(self, priority: Literal["strict", "earliest"]) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """The event of each text that `triggers.onset` gives, and which texts have none."""
        none = self.offsets[:-1] == self.offsets[1:]
        if priority == "earliest":
            return self.offsets[:-1], none
        first, no_strict = self.first_strict()
        return np.where(no_strict, self.offsets[:-1], first), none


def event_columns(events: Sequence[Sequence[Event]]) -> EventColumns:
    """The events of each text as columns."""
    sizes = np.fromiter(map(len, events), dtype=np.int32, count=len(events))
    offsets = np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum(sizes, dtype=np.int32)])
    phrases, kinds, starts, ends = zip(*chain.from_iterable(events), strict=True) if offsets[-1] else ((),) * 4
    rows = np.repeat(np.arange(len(events)), sizes)
    return EventColumns(offsets, rows, phrases, kinds, np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64))


def taken(values: pa.Array, places: Numbers, none: npt.NDArray[np.bool_]) -> pa.Array:
    """The values at some places, NULL where there is none."""
    return values.take(pa.array(places, mask=none))


def in_rows(rows: Numbers, characters: Numbers) -> npt.NDArray[np.int64]:
    """Numbers that rise over all texts with the text and with the character in it."""
    return (rows.astype(np.int64) << _ROW_BITS) + characters
