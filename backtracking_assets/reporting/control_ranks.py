"""Where a targeted subset ranks among the random subsets matched to it."""

from collections.abc import Collection
from dataclasses import dataclass

from backtracking_assets.records import Cell
from backtracking_assets.reporting.formats import equals_p, format_measurement, format_p, join_names, plural
from backtracking_assets.reporting.measured import SweepIndex
from backtracking_assets.reporting.tables import Column, TextTable

LEAST_DRAWS = 19
"""Draws from which on a rank is a p-value: the lowest of 1 + 19 has p = 0.05. Fewer are shown as dots only."""


@dataclass(frozen=True)
class ControlRank:
    """How many random controls have an estimate of the primary measure as low as that of the subset they match."""

    cell: Cell
    n_draws: int
    """Controls that are measured at the cell's scale."""
    n_as_low: int
    n_intact: int
    """Those of them that break neither arithmetic nor coherence."""
    n_intact_as_low: int
    set_apart: tuple[Cell, ...]

    @property
    def p_value(self) -> float | None:
        """One-sided, for a drop, among all draws; None where they are too few."""
        return rank_p(self.n_as_low, self.n_draws)

    @property
    def p_intact(self) -> float | None:
        """The same among the intact draws."""
        return rank_p(self.n_intact_as_low, self.n_intact)


def rank_p(n_as_extreme: int, n_draws: int) -> float | None:
    """(1 + k) / (1 + n): the chance to rank so far among draws that are exchangeable with the subset; None below 19."""
    return None if n_draws < LEAST_DRAWS else (1 + n_as_extreme) / (1 + n_draws)


def control_rank(index: SweepIndex, cell: Cell) -> ControlRank | None:
    """The rank of a targeted subset's cell in the primary measure; None where it or all its controls are unmeasured."""
    own = index.value(cell, index.primary.name)
    estimates: dict[Cell, float] = {}
    for control in index.controls(cell.layer_subset):
        value = index.value(control.cell, index.primary.name)
        if control.cell.scale == cell.scale and value is not None and value.estimate is not None:
            estimates[control.cell] = value.estimate
    if own is None or own.estimate is None or not estimates:
        return None
    least = own.estimate
    set_apart = tuple(control for control in estimates if index.damage(control))

    def as_low(controls: Collection[Cell]) -> int:
        return sum(estimates[control] <= least for control in controls)

    intact = [control for control in estimates if control not in set_apart]
    return ControlRank(cell, len(estimates), as_low(estimates), len(intact), as_low(intact), set_apart)


def rank_sentences(rank: ControlRank | None) -> list[str]:
    """What the rank says, with and without the controls that are set apart; nothing where the draws are too few."""
    if rank is None or rank.p_value is None:
        return []
    sentence = (
        f"{_as_low(rank.n_as_low, rank.n_draws)} as low as {rank.cell.layer_subset}: its rank gives a one-sided "
        f"{equals_p(rank.p_value)}"
    )
    if not rank.set_apart:
        return [f"{sentence}."]
    without = f"{_as_low(rank.n_intact_as_low, rank.n_intact, 'intact draw').lower()} as low"
    if rank.p_intact is None:
        return [f"{sentence}; {without}, too few for a p ({LEAST_DRAWS} are needed)."]
    return [f"{sentence}; {without}, {equals_p(rank.p_intact)}."]


def control_table(index: SweepIndex) -> TextTable | None:
    """One row for each targeted subset with controls at the lowest scale; None where no control is planned there."""
    if index.lowest_scale is None:
        return None
    names = [name for name in index.targeted() if any(index.controls(name))]
    ranks = [rank for name in names if (rank := control_rank(index, Cell(name, index.lowest_scale))) is not None]
    if not ranks:
        return None
    columns = (
        Column("subset", "left"),
        Column(index.primary.label, "right", f"Of the subset at scale {index.lowest_scale:g}."),
        Column("draws", "right", "Random subsets matched in number and kind that are measured at that scale."),
        Column("as low", "right", "Draws whose estimate is not above that of the subset."),
        Column("p", "right", f"(1 + as low) / (1 + draws), one-sided for a drop; none below {LEAST_DRAWS} draws."),
        Column("intact", "right", "Draws that break neither single-step arithmetic nor coherence."),
        Column("as low, intact", "right"),
        Column("p, intact", "right", "The same p among the intact draws."),
        Column("set apart", "left", "The other draws, and what they do more than the baseline."),
    )
    rows = tuple(
        (
            rank.cell.layer_subset,
            format_measurement(index.value(rank.cell, index.primary.name), index.primary),
            str(rank.n_draws),
            str(rank.n_as_low),
            format_p(rank.p_value),
            str(rank.n_intact),
            str(rank.n_intact_as_low),
            format_p(rank.p_intact),
            _why(index, rank.set_apart),
        )
        for rank in ranks
    )
    return TextTable(columns, rows)


def _why(index: SweepIndex, controls: tuple[Cell, ...]) -> str:
    """`random_1 and random_4: makes more wrong steps`, the controls grouped by what they do; `none` without any."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for control in controls:
        groups.setdefault(index.damage(control), []).append(control.layer_subset.partition("_of_")[0])
    return "; ".join(f"{join_names(names)}: {join_names(does)}" for does, names in groups.items()) or "none"


def _as_low(count: int, draws: int, noun: str = "draw") -> str:
    return f"{count or 'None'} of {plural(draws, noun)} {'are' if count > 1 else 'is'}"
