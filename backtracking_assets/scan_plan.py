"""The section `scan` of an experiment file: at how many events components are scanned, and how many are selected."""

from typing import Annotated

from pydantic import Field

from backtracking_assets.scan_records import ScanMode
from backtracking_assets.section import Section


class Scan(Section):
    """The logit lens and the scan of every component, at events of problems that the sweep does not use."""

    events: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 120
    """At most so many strict events of the held-out baseline are looked at."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)]
    """Decides which events are drawn where there are more, which positions they are matched with, and the bootstrap."""
    top: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 6
    """Components of each kind that are selected."""
    select_by: ScanMode = "zero"
    """Which of the two movements the selection goes by."""
    bootstrap: Annotated[int, Field(strict=True, ge=100, le=1_000_000)] = 2_000
    """Resamples of problems from which it is told how often each component is selected."""


def check_scan(scan: Scan, n_layers: int, n_held_out: int) -> None:
    """Refuse a scan that does not fit its study.

    Args:
        n_held_out: problems of phase 1 that the sweep does not use; 0 without a phase 1.

    Raises:
        ValueError: the message begins with the place.
    """
    if n_held_out < 1:
        raise ValueError(
            "scan: it looks at problems that the sweep does not use, and there is none; add a section phase1 whose "
            "count is above problems.count"
        )
    if scan.top > n_layers:
        raise ValueError(f"scan.top: it is {scan.top} and the model has {n_layers} layers")
