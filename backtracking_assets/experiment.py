"""What an experiment is: one pydantic model that refuses unknown keys.

Nothing here touches a checkpoint, a problem file or the network.
"""

import math
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr, model_validator

from backtracking_assets.errors import ExperimentError, did_you_mean
from backtracking_assets.experiment_sections import (
    Checks,
    Detection,
    Generation,
    Means,
    ModelSource,
    ProblemSource,
    Prompting,
    Sampling,
    Statistics,
)
from backtracking_assets.layer_subsets import (
    TRIGGER_LOGITS,
    Controls,
    DerivedSubset,
    FileSubset,
    LayerSubset,
    Subset,
    TriggerLogits,
    random_draw,
)
from backtracking_assets.phase1_plan import Phase1, check_phase1
from backtracking_assets.places import PROJECT_ROOT
from backtracking_assets.plan import (
    BASELINE_SCALE,
    Continuation,
    PlanEntry,
    cells_named,
    check_subsets,
    check_targeted,
)
from backtracking_assets.positive_control_plan import PositiveControl
from backtracking_assets.records import Cell
from backtracking_assets.scan_plan import Scan, check_scan
from backtracking_assets.section import Finite, Name, Section


class Experiment(Section):
    """One study: everything that decides its results."""

    name: Name
    title: str
    description: str = ""
    disclaimer: str = ""
    """A sentence that stands on every page that shows results."""
    model: ModelSource
    problems: ProblemSource
    prompting: Prompting
    sampling: Sampling
    generation: Generation = Generation()
    layer_subsets: Annotated[dict[Name, FileSubset], Field(min_length=1)]
    scales: Annotated[tuple[Finite, ...], Field(min_length=1)]
    controls: Controls = Controls()
    plan: Annotated[tuple[PlanEntry, ...], Field(min_length=1)]
    detection: Detection
    statistics: Statistics = Statistics()
    checks: Checks = Checks()
    means: Means = Means()
    """Where the means come from, for subsets that are scaled towards them."""
    continuation: Continuation | None = None
    """The continuation ablation; a study without this section has no such asset."""
    positive_control: PositiveControl | None = None
    """The method held against a known truth; a study without this section has no such asset."""
    phase1: Phase1 | None = None
    """Phase 1; a study without this section has none of its assets."""

    scan: Scan | None = None
    """The logit lens and the component scan, on phase 1's held-out problems."""

    _source: Path | None = PrivateAttr(default=None)
    _subsets: tuple[tuple[object, object], dict[str, Subset]] | None = PrivateAttr(default=None)
    """What `all_subsets` found, and what it was made from: a copy with other controls draws anew."""

    @property
    def source(self) -> Path:
        """The file that the experiment was read from."""
        if self._source is None:
            raise ExperimentError(f"experiment {self.name!r} was not read from a file; use load_experiment")
        return self._source

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        self._check_layers()
        self._check_scales()
        twice = sorted({control.of for control in self.controls.random if self._draws_of(control.of) > 1})
        if twice:
            raise ValueError(f"controls.random: {twice[0]} is drawn for twice; give one entry with more draws")
        for control in self.controls.random:
            for name in (control.of, *control.outside):
                if name not in self.layer_subsets:
                    raise ValueError(
                        f"controls.random: {name!r} is not a layer subset{did_you_mean(name, self.layer_subsets)}"
                    )
                if isinstance(self.layer_subsets[name], DerivedSubset):
                    raise ValueError(
                        f"controls.random: {name} is derived, so its components are not known before they are ranked; "
                        "list its layers as a subset of its own, and draw for that one"
                    )
        subsets = self.all_subsets()
        seen: dict[object, str] = {}
        for name, subset in self.layer_subsets.items():
            first = seen.setdefault(subset.acts_on if isinstance(subset, LayerSubset) else subset, name)
            if first != name:
                raise ValueError(f"layer_subsets: {first} and {name} name the same components; remove one")
        check_subsets("plan", self.plan, subsets)
        for entry in self.plan:
            if entry.scales != "all":
                for scale in entry.scales:
                    if scale not in self.scales:
                        raise ValueError(f"plan: scale {scale:g} is not among scales")
        if not self.planned_cells():
            raise ValueError("plan: it names no cell")
        if self.continuation is not None:
            check_subsets("continuation.cells", self.continuation.cells, subsets)
            if not self.continuation_cells():
                raise ValueError("continuation.cells: they name no cell")
        if self.phase1 is not None:
            check_targeted("phase1.compare", self.phase1.compare, self.layer_subsets)
            check_phase1(self.phase1, self.problems.count, self._lowest_scale(self.phase1.compare))
        if self.positive_control is not None and self.scan is None:
            raise ValueError("positive_control: it holds the section scan against the truth, and there is none; add it")
        if self.scan is not None:
            held_out = 0 if self.phase1 is None else self.phase1.count - self.problems.count
            check_scan(self.scan, self.model.n_layers, held_out)
        return self

    def _check_layers(self) -> None:
        for name, subset in self.layer_subsets.items():
            for layer, component in subset.components() if isinstance(subset, LayerSubset) else ():
                if not 0 <= layer < self.model.n_layers:
                    raise ValueError(
                        f"layer_subsets.{name}: {component} layer {layer} does not exist; "
                        f"the model has layers 0 to {self.model.n_layers - 1}"
                    )
            if name.startswith("random_") or name in ("targeted", "random", TRIGGER_LOGITS):
                raise ValueError(
                    f"layer_subsets.{name}: targeted, random, {TRIGGER_LOGITS} and names that start with random_ are "
                    "reserved"
                )

    def _check_scales(self) -> None:
        if len(set(self.scales)) != len(self.scales):
            raise ValueError("scales: a scale is listed twice")
        if any(scale < 0 for scale in self.scales):
            raise ValueError("scales: a scale below 0 would flip the sign of a component; use 0 to 1")
        if BASELINE_SCALE not in self.scales:
            raise ValueError("scales: 1.0 is missing; it is the baseline that every other scale is compared with")

    def all_subsets(self) -> dict[str, Subset]:
        """The file's subsets in file order, the trigger control if it is wanted, then the random controls, by name."""
        made_from = (self.layer_subsets, self.controls)
        if self._subsets is None or any(old is not new for old, new in zip(self._subsets[0], made_from, strict=True)):
            self._subsets = (made_from, self._drawn_subsets())
        return dict(self._subsets[1])

    def _drawn_subsets(self) -> dict[str, Subset]:
        subsets: dict[str, Subset] = dict(self.layer_subsets)
        if self.controls.trigger_logits:
            subsets[TRIGGER_LOGITS] = TriggerLogits()
        listed = {name: subset for name, subset in self.layer_subsets.items() if isinstance(subset, LayerSubset)}
        taken = {subset.acts_on for subset in listed.values()}
        for control in self.controls.random:
            for draw in range(1, control.draws + 1):
                drawn = random_draw(control, draw, targeted=listed, taken=taken, n_layers=self.model.n_layers)
                subsets[control.name(draw)] = drawn
                taken.add(drawn.acts_on)
        return subsets

    @property
    def needs_means(self) -> bool:
        """Whether a subset is scaled towards means."""
        subsets = self.layer_subsets.values()  # random controls follow their target
        return any(subset.towards == "mean" for subset in subsets)

    def _draws_of(self, name: str) -> int:
        return sum(control.of == name for control in self.controls.random)

    def control_of(self, layer_subset: str) -> str | None:
        """The targeted subset that a random control is matched to; None for a targeted subset."""
        for control in self.controls.random:
            if layer_subset.endswith(control.of) and layer_subset in {
                control.name(draw) for draw in range(1, control.draws + 1)
            }:
                return control.of
        return None

    def planned_cells(self) -> tuple[Cell, ...]:
        """The cells of the study, each once: in the order of the plan, scales in file order."""
        return cells_named(self.plan, tuple(self.layer_subsets), self._control_names(), self.scales)

    def continuation_cells(self) -> tuple[Cell, ...]:
        """The interventions of the continuation ablation, each once; none where the file has no such section."""
        entries = () if self.continuation is None else self.continuation.cells
        return cells_named(entries, tuple(self.layer_subsets), self._control_names(), self.scales)

    def compared_cells(self) -> tuple[Cell, ...]:
        """Planned cells that phase 1 compares: a baseline, its targeted subset, then that subset's random controls.

        Both at the lowest scale that is planned for the subset; empty without a phase 1.
        """
        if self.phase1 is None:
            return ()
        compare, scale, planned = self.phase1.compare, self._lowest_scale(self.phase1.compare), self.planned_cells()
        at_one = sorted(
            (cell for cell in planned if cell.scale == BASELINE_SCALE), key=lambda cell: cell.layer_subset != compare
        )
        scaled = [cell for cell in planned if cell.scale == scale]
        targeted = [cell for cell in scaled if cell.layer_subset == compare]
        return (*at_one[:1], *targeted, *(cell for cell in scaled if self.control_of(cell.layer_subset) == compare))

    def _lowest_scale(self, layer_subset: str) -> float | None:
        """The lowest planned scale of a subset, the baseline's left out."""
        scales = (cell.scale for cell in self.planned_cells() if cell.layer_subset == layer_subset)
        return min((scale for scale in scales if scale != BASELINE_SCALE), default=None)

    def for_variant(self, name: str) -> "Experiment":
        """This experiment with another prompt variant, on the problems and samples of phase 1; same file and outputs.

        Raises:
            ExperimentError: there is no phase 1, or no such variant.
        """
        if self.phase1 is None:
            raise ExperimentError(
                f"{self.source} has no section phase1, which says on how many problems the prompt variants are "
                "compared; add one, as docs/experiment-files.md describes it."
            )
        variants = self.prompting.variants
        if name not in variants:
            near = did_you_mean(name, variants)
            raise ExperimentError(f"There is no prompt variant {name!r}{near}; variants: {', '.join(variants)}.")
        problems = {"count": self.phase1.count, "samples": self.phase1.samples}
        return self.model_copy(
            update={
                "prompting": self.prompting.model_copy(update={"variant": name}),
                "problems": self.problems.model_copy(update=problems),
            }
        )

    def _control_names(self) -> tuple[str, ...]:
        return tuple(control.name(draw) for control in self.controls.random for draw in range(1, control.draws + 1))

    @property
    def completions_per_cell(self) -> int:
        return self.problems.count * self.problems.samples

    def resolve(self, path: Path) -> Path:
        """A path of the experiment file, which is relative to that file."""
        return path if path.is_absolute() else (self.source.parent / path).resolve()

    def outputs_dir(self) -> Path:
        """Folder of this experiment's journal, archive, database and reports."""
        return outputs_home() / self.name


def outputs_home() -> Path:
    """`BACKTRACKING_HOME`, or `data/runs` of the project."""
    home = os.environ.get("BACKTRACKING_HOME")
    return Path(home).expanduser().resolve() if home else PROJECT_ROOT / "data" / "runs"


def scale_key(scale: float) -> str:
    """The partition key of a scale, such as `0.25` or `1.0`."""
    if not math.isfinite(scale):
        raise ExperimentError(f"scale {scale} is not a finite number")
    return repr(float(scale))
