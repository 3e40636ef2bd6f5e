"""What phase 1 of a study asks for: every prompt variant without intervention, and which condition is compared."""

from typing import Annotated

from pydantic import Field

from backtracking_assets.section import Name, Section


class Phase1(Section):
    """Phase 1: completions of every prompt variant, on more problems than the sweep's."""

    count: Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
    """Problems; the sweep's are the first of them, and those that the sweep does not use are held out from it."""
    samples: Annotated[int, Field(strict=True, ge=1, le=10_000)]
    """Samples of each problem."""
    compare: Name
    """The targeted subset that is compared with its random controls, at the lowest scale that is planned for it."""


def check_phase1(phase1: Phase1, count: int, lowest_scale: float | None) -> None:
    """Refuse a phase 1 that does not fit its study.

    Args:
        count: problems of the sweep.
        lowest_scale: the lowest planned scale of `compare` that is not the baseline's; None if there is none.

    Raises:
        ValueError: the message begins with the place.
    """
    if phase1.count < count:
        raise ValueError(
            f"phase1.count: it is {phase1.count} and problems.count is {count}; the sweep's problems are the first of "
            "phase 1's, so phase 1 needs at least as many"
        )
    if lowest_scale is None:
        raise ValueError(f"phase1.compare: the plan scales {phase1.compare!r} nowhere; plan a cell of it below 1.0")
