"""What a layer subset does beyond its effect on the rate of triggers, as it travels from analysis to reporting."""

from dataclasses import dataclass
from typing import Literal

from backtracking_assets.records import Cell

OutcomeVerdict = Literal["equivalent", "differs", "undecided"]


@dataclass(frozen=True)
class EqualRateOutcome:
    """A measure of a layer subset's cell beside that of the trigger control at the same rate."""

    measure: str
    subset: float
    control: float
    """Interpolated between the scales of the control."""
    difference: float
    """The subset's minus the control's."""
    low: float
    high: float
    """Interval that holds jointly over the outcomes."""
    verdict: OutcomeVerdict


@dataclass(frozen=True)
class EqualRate:
    """One layer subset's cell against the trigger control at the same rate."""

    cell: Cell
    rate_measure: str
    rate: float
    curve: tuple[tuple[float, float], ...]
    """(scale, rate) of the control, by scale, the baseline at 1 among them."""
    scale: float | None
    """The control's scale at which it has the cell's rate; None where the rate lies outside the curve."""
    outside_share: float
    """Share of the resamples in which it does, and in which the end of the curve was taken."""
    margin: float
    outcomes: tuple[EqualRateOutcome, ...]
    """None where the rate lies outside the curve."""

    @property
    def verdict(self) -> OutcomeVerdict | Literal["outside"]:
        """Equivalent if all outcomes are, different if one is."""
        if self.scale is None:
            return "outside"
        verdicts = {outcome.verdict for outcome in self.outcomes}
        if "differs" in verdicts:
            return "differs"
        return "equivalent" if verdicts == {"equivalent"} else "undecided"
