"""Which targeted subsets a figure shows one by one: all of them while they can be read, else a stated part."""

import math

from backtracking_assets.records import Cell
from backtracking_assets.reporting.measured import SweepIndex

MOST_SUBSETS = 15
"""Panels that fill three rows; bars and lines that can still be told apart."""


def shown_subsets(index: SweepIndex) -> tuple[str, ...]:
    """The targeted subsets in the plan's order: of many, those that are lowest in the primary measure at the lowest scale.

    What is not measured there comes after what is.
    """
    names = index.targeted()
    if len(names) <= MOST_SUBSETS or index.lowest_scale is None:
        return names[:MOST_SUBSETS]
    lowest: dict[str, float] = {}
    for name in names:
        value = index.value(Cell(name, index.lowest_scale), index.primary.name)
        lowest[name] = math.inf if value is None or value.estimate is None else value.estimate
    chosen = set(sorted(names, key=lambda name: lowest[name])[:MOST_SUBSETS])
    return tuple(name for name in names if name in chosen)


def shown_note(index: SweepIndex) -> str:
    """Which part of the targeted subsets is shown; empty where all of them are."""
    n_targeted, n_shown = len(index.targeted()), len(shown_subsets(index))
    if n_shown == n_targeted:
        return ""
    scale = "" if index.lowest_scale is None else f" at scale {index.lowest_scale:g}"
    return (
        f" Of {n_targeted} targeted subsets, the {n_shown} that are lowest in “{index.primary.label}”{scale} are shown; "
        "the result table has all."
    )
