"""What the positive control's page is made from: the truth, the rankings held against it, and the scaled subsets."""

from dataclasses import dataclass

import pandas as pd

from backtracking_assets.reporting.contents import Provenance, Study


@dataclass(frozen=True)
class PutBackRow:
    """What is lost when components get back their weights before they were planted."""

    name: str
    """Such as `attention 15`, or `all planted`."""
    drop: float
    """Of the probability of a trigger after an injected wrong step."""
    low: float
    high: float
    after_wrong_step: float
    """What is left of that probability."""
    after_right_step: float
    causal: bool | None
    """Whether it counts as causal; None for components that are put back together."""


@dataclass(frozen=True)
class ScaledSubset:
    """One layer subset at one scale, and how much of it was planted."""

    name: str
    scale: float
    components: tuple[str, ...]
    """Such as `attention.15`."""
    n_planted: int
    control_of: str | None
    difference: float
    """To the unscaled run."""
    low: float | None
    high: float | None
    p_holm: float | None


@dataclass(frozen=True)
class SelectedComponents:
    """What the study selected by itself: the top of each kind on problems that the sweep does not use."""

    names: tuple[str, ...]
    """Such as `attention 15`, in the order of the selection."""
    planted: tuple[str, ...]
    """Those of them that were planted."""


@dataclass(frozen=True)
class ControlResults:
    """One organism: its truth and what the method says of it."""

    study: Study
    tuned_here: bool
    margin: float
    probes: int
    after_wrong_step: float
    """Probability of a trigger after an injected wrong step, nothing put back."""
    after_right_step: float
    put_back: tuple[PutBackRow, ...]
    planted: tuple[str, ...]
    """Such as `attention 15`."""
    causal: tuple[str, ...]
    components: pd.DataFrame
    """Rows of POSITIVE_CONTROL_COMPONENTS."""
    figures: pd.DataFrame
    """Rows of POSITIVE_CONTROL_FIGURES."""
    criterion: str
    """The measure by which the study selects components."""
    labels: dict[str, str]
    """What each measure of the scan is called, in the order in which they are shown."""
    selected: SelectedComponents | None
    one_position: tuple[ScaledSubset, ...]
    """The onset token's probability at the baseline's events; empty where the continuation ablation is not there."""
    sweep: tuple[ScaledSubset, ...]
    """The sweep's primary measure at the lowest scale; empty where it is not there."""
    sweep_measure: str
    """What that measure is called."""


@dataclass(frozen=True)
class ControlReport:
    """Contents of the page."""

    results: ControlResults
    other: ControlResults | None
    """The organism that the method is judged on; None where there is none, or where its figures are not stored."""
    other_absent_because: str
    provenance: Provenance
    version: str
    """Digest of what the page shows."""
