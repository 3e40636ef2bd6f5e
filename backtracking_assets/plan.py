"""Which cells a study asks for: its plan, and the list of its continuation ablation."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from backtracking_assets.errors import did_you_mean
from backtracking_assets.records import Cell, Subject
from backtracking_assets.section import Finite, Section

BASELINE_SCALE = 1.0
"""The scale at which an intervention is the identity: every subset's cell at this scale is the baseline."""

Subsets = Annotated[tuple[str, ...], Field(min_length=1)]
"""Names of subsets; `targeted` stands for all listed subsets, `random` for all random controls."""

_GROUPS = ("targeted", "random")


class PlanEntry(Section):
    """Cells that belong to the study: every named subset at every named scale."""

    layer_subsets: Subsets
    scales: tuple[Finite, ...] | Literal["all"] = "all"


class ContinuationEntry(Section):
    """Interventions of the continuation ablation: every named subset at every named scale."""

    layer_subsets: Subsets
    scales: Annotated[tuple[Finite, ...], Field(min_length=1)]

    @field_validator("scales")
    @classmethod
    def _scale_something(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if any(scale < 0 for scale in scales):
            raise ValueError("a scale below 0 would flip the sign of a component; use 0 to 1")
        if BASELINE_SCALE in scales:
            raise ValueError("1.0 is the unscaled reference, which is always computed; leave it out")
        return scales


class Continuation(Section):
    """The continuation ablation: what happens right where the baseline began a strict trigger."""

    events: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 150
    """At most so many of the baseline's strict events are looked at."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)]
    """Decides which events are drawn where there are more, and which positions they are matched with."""
    cells: Annotated[tuple[ContinuationEntry, ...], Field(min_length=1)]
    continuations: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 10
    """How often each event's prefix is continued by sampling, under each intervention."""
    max_new_tokens: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 16
    """Tokens of such a continuation."""


def check_subsets(place: str, entries: Iterable[PlanEntry | ContinuationEntry], known: Iterable[str]) -> None:
    """Refuse a name that stands for no subset.

    Raises:
        ValueError: the message begins with the place.
    """
    names = list(known)
    for entry in entries:
        for name in entry.layer_subsets:
            if name not in names and name not in _GROUPS:
                raise ValueError(f"{place}: {name!r} is not a layer subset{did_you_mean(name, names)}")


def check_targeted(place: str, name: str, targeted: Iterable[str]) -> None:
    """Refuse a name that stands for no targeted subset.

    Raises:
        ValueError: the message begins with the place.
    """
    names = list(targeted)
    if name not in names:
        raise ValueError(f"{place}: {name!r} is not a targeted layer subset{did_you_mean(name, names)}")


def cells_named(
    entries: Iterable[PlanEntry | ContinuationEntry],
    targeted: Sequence[str],
    controls: Sequence[str],
    scales: Sequence[float],
) -> tuple[Cell, ...]:
    """The cells that entries name, each once: in the order of the entries, then of subsets, then of scales.

    `scales` are those that `all` stands for.
    """
    groups = {"targeted": tuple(targeted), "random": tuple(controls)}
    cells: dict[Cell, None] = {}
    for entry in entries:
        for wanted in entry.layer_subsets:
            for name in groups.get(wanted, (wanted,)):
                for scale in scales if entry.scales == "all" else entry.scales:
                    cells[Cell(name, scale)] = None
    return tuple(cells)


def is_baseline(subject: Subject) -> bool:
    """Whether this is a cell at scale 1.0."""
    return isinstance(subject, Cell) and subject.scale == BASELINE_SCALE
