"""What was planted in an organism, and what each planted component does, read from its `known_truth.json`.

The truth is measured by putting components back to their weights before they were planted
(`models/organism/known_truth.py`). Trained is not the same as causal: a component may have been trained and do little.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from backtracking_assets.errors import ExperimentError
from backtracking_assets.records import Component


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class _Estimate(_Read):
    value: float
    low: float
    high: float


class _Place(_Read):
    component: Component
    layer: int


class _Reaction(_Read):
    after_wrong_step: _Estimate
    after_right_step: _Estimate


class _PutBack(_Read):
    components: tuple[_Place, ...]
    reaction: _Reaction
    drop: _Estimate


class _File(_Read):
    probes: int
    planted: tuple[_Place, ...]
    organism: _Reaction
    put_back_one: tuple[_PutBack, ...]
    put_back_attention: _PutBack
    put_back_mlps: _PutBack
    put_back_all: _PutBack


@dataclass(frozen=True)
class Drop:
    """What Wait after an injected wrong step loses when components get back their weights before they were planted."""

    components: tuple[tuple[int, Component], ...]
    """Pairs (layer, component), sorted."""
    estimate: float
    low: float
    high: float
    wait_after_wrong_step: float
    """What is left of it."""
    wait_after_right_step: float


@dataclass(frozen=True)
class PlantedTruth:
    """The truth about an organism; differences are of probabilities, intervals are of 95%."""

    probes: int
    wait_after_wrong_step: float
    wait_after_right_step: float
    one: tuple[Drop, ...]
    """A planted component each, in the order of layers."""
    together: tuple[tuple[str, Drop], ...]
    """What is put back together, by what it is called."""
    digest: str
    """sha256 of the file."""

    @property
    def planted(self) -> frozenset[tuple[int, Component]]:
        """Pairs (layer, component)."""
        return frozenset(pair for drop in self.one for pair in drop.components)

    def causal(self, margin: float) -> frozenset[tuple[int, Component]]:
        """The planted components whose drop lies above the margin with its whole interval."""
        return frozenset(pair for drop in self.one if drop.low > margin for pair in drop.components)

    def drop_of(self, layer: int, component: Component) -> Drop | None:
        """The drop of one component; None where it was not planted: its weights have never changed."""
        return next((drop for drop in self.one if drop.components == ((layer, component),)), None)


def read_truth(path: Path) -> PlantedTruth:
    """The truth that stands in a file.

    Raises:
        ExperimentError: the file is missing, is no such file, or does not measure each planted component once.
    """
    try:
        content = path.read_bytes()
        found = _File.model_validate_json(content)
    except OSError as error:
        raise ExperimentError(
            f"positive_control.known_truth: {path} cannot be read ({error.strerror}); it is the known_truth.json "
            "beside an organism's weights."
        ) from error
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "its form"
        raise ExperimentError(
            f"positive_control.known_truth: {path} is no known_truth.json of an organism ({place}: "
            f"{error.errors()[0]['msg']}); take the one beside its weights."
        ) from error
    one = tuple(sorted((_drop(row) for row in found.put_back_one), key=lambda drop: drop.components))
    measured = [pair for drop in one for pair in drop.components]
    if not measured or sorted(measured) != sorted((place.layer, place.component) for place in found.planted):
        raise ExperimentError(
            f"positive_control.known_truth: {path} does not measure each planted component once; take the file beside "
            "the organism's weights."
        )
    return PlantedTruth(
        probes=found.probes,
        wait_after_wrong_step=found.organism.after_wrong_step.value,
        wait_after_right_step=found.organism.after_right_step.value,
        one=one,
        together=(
            ("all planted attention", _drop(found.put_back_attention)),
            ("all planted MLPs", _drop(found.put_back_mlps)),
            ("all planted", _drop(found.put_back_all)),
        ),
        digest=hashlib.sha256(content).hexdigest(),
    )


def _drop(row: _PutBack) -> Drop:
    return Drop(
        components=tuple(sorted((place.layer, place.component) for place in row.components)),
        estimate=row.drop.value,
        low=row.drop.low,
        high=row.drop.high,
        wait_after_wrong_step=row.reaction.after_wrong_step.value,
        wait_after_right_step=row.reaction.after_right_step.value,
    )
