"""The section `positive_control` of an experiment file: where the truth stands, and what the method is judged on."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, StrictBool

from backtracking_assets.section import Finite, Name, Section


class PositiveControl(Section):
    """The truth about a model whose backtracking was planted, and how the method is held against it."""

    known_truth: Path
    """`known_truth.json` beside the organism's weights, relative to the experiment file."""
    margin: Annotated[Finite, Field(ge=0, lt=1)] = 0.02
    """A planted component is causal if what Wait after an injected wrong step loses without it lies above this, with
    its whole interval."""
    tuned_here: StrictBool
    """Whether the method was tuned on this organism: then its figures here are no evidence for it."""
    judged_on: Name | None = None
    """The experiment of another organism, on which nothing was tuned; its figures stand on this one's page."""
