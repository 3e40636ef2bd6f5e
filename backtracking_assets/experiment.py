"""What an experiment is: one pydantic model that refuses unknown keys.

Nothing here touches a checkpoint, a problem file or the network.
"""

import math
import os
import random
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, StrictBool, StrictInt, field_validator, model_validator

from backtracking_assets.errors import ExperimentError, did_you_mean
from backtracking_assets.plan import BASELINE_SCALE, Continuation, PlanEntry, cells_named, check_subsets
from backtracking_assets.records import Cell, Component
from backtracking_assets.section import Finite, Name, Section

PROJECT_ROOT = Path(__file__).resolve().parents[1]
Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]

_MOST_REDRAWS = 1000


class ModelSource(Section):
    """Where the checkpoint is and how it is loaded."""

    path: Path | None = None
    """Folder of the checkpoint, relative to the experiment file."""
    hub_id: str | None = None
    revision: str = "main"
    dtype: Literal["float32", "bfloat16", "float16"]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    n_layers: Annotated[int, Field(strict=True, ge=1, le=10_000)]
    """Decoder layers; stated here so that the grid is known without the checkpoint, and checked when it is loaded."""
    round_trip: Annotated[str, Field(min_length=1)]
    """A text that the tokenizer must encode and decode unchanged; a tokenizer that fails it is refused."""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSource":
        if (self.path is None) == (self.hub_id is None):
            raise ValueError("give exactly one of path and hub_id")
        return self


class HubDataset(Section):
    """A Parquet data set on the Hugging Face hub."""

    dataset: str
    config: str = "default"
    split: str
    revision: str = "main"


class ProblemSource(Section):
    """Which problems are asked, and how often each."""

    path: Path | None = None
    """JSONL file with one object a line, relative to the experiment file."""
    hub: HubDataset | None = None
    id_field: str | None = "id"
    """Field with a unique id; null: the id is a digest of the question."""
    question_field: str = "question"
    answer_field: str = "answer_value"
    answer_after: str | None = None
    """If set, the reference answer is what follows the last occurrence of this mark in the answer field."""
    count: Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
    seed: Seed
    samples: Annotated[int, Field(strict=True, ge=1, le=10_000)]

    @model_validator(mode="after")
    def _one_source(self) -> "ProblemSource":
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of path and hub")
        return self


class Prompting(Section):
    """How a question becomes a prompt."""

    system: str | None = None
    chat_template: StrictBool
    """Whether the checkpoint's chat template wraps the system line and the variant's text."""
    variant: Name
    """The variant that the layer sweep uses."""
    variants: dict[Name, str]
    assistant_prefix: dict[Name, str] = Field(default_factory=dict)
    """Text by variant that opens the answer, in place of a `<think>` that the chat template opens; may be empty."""

    @model_validator(mode="after")
    def _variants_are_usable(self) -> "Prompting":
        if self.variant not in self.variants:
            raise ValueError(f"variant {self.variant!r} is not among variants: {', '.join(self.variants)}")
        for name, template in self.variants.items():
            if "{question}" not in template:
                raise ValueError(f"variant {name!r} has no {{question}} in its text")
        for name in sorted(set(self.assistant_prefix) - set(self.variants)):
            raise ValueError(f"assistant_prefix: {name!r} is not among variants{did_you_mean(name, self.variants)}")
        if not self.chat_template and (self.system is not None or self.assistant_prefix):
            key = "assistant_prefix" if self.system is None else "system"
            raise ValueError(f"{key} needs chat_template: true; without it, write the text into the variants")
        return self

    def user_text(self, question: str) -> str:
        """The variant's text with the question filled in; other braces stay as they are."""
        return self.variants[self.variant].replace("{question}", question)


class Sampling(Section):
    """How the next token is drawn. Temperature 0 is greedy decoding."""

    temperature: Annotated[Finite, Field(ge=0)]
    top_p: Annotated[Finite, Field(gt=0, le=1)]
    max_new_tokens: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class Generation(Section):
    """How the work is cut. Changes speed and durability, never which distribution a completion comes from."""

    completions_per_chunk: Annotated[int, Field(strict=True, ge=1)] = 120
    """Completions batched together and made durable together; about a minute of work at most."""
    threads: Annotated[int, Field(strict=True, ge=1)] = 1
    """CPU threads of one model; fixed, because results on a CPU are only bit-identical at equal thread counts."""
    mixed_devices: Literal["allow", "refuse"] = "allow"
    """Whether the completions of one condition may come from several kinds of device, whose last bits differ."""


class LayerSubset(Section):
    """The components that are scaled together."""

    attention: tuple[StrictInt, ...] = ()
    mlp: tuple[StrictInt, ...] = ()

    @model_validator(mode="after")
    def _distinct_and_not_empty(self) -> "LayerSubset":
        if not self.attention and not self.mlp:
            raise ValueError("it names no layer; list at least one under attention or mlp")
        for kind, layers in (("attention", self.attention), ("mlp", self.mlp)):
            twice = sorted(layer for layer, n in Counter(layers).items() if n > 1)
            if twice:
                raise ValueError(f"{kind} names layer {twice[0]} twice")
        return self

    def components(self) -> tuple[tuple[int, Component], ...]:
        """Pairs (layer, component), sorted."""
        pairs: list[tuple[int, Component]] = [(layer, "attention") for layer in self.attention]
        mlps: list[tuple[int, Component]] = [(layer, "mlp") for layer in self.mlp]
        return tuple(sorted(pairs + mlps))


class RandomControl(Section):
    """Random subsets matched in number and kind to one targeted subset."""

    of: Name
    draws: Annotated[int, Field(strict=True, ge=1, le=1000)]
    seed: Seed
    outside: tuple[Name, ...] = ()
    """Subsets whose layers are never drawn, besides those of `of` itself."""

    def name(self, draw: int) -> str:
        return f"random_{draw}_of_{self.of}"


class Controls(Section):
    random: tuple[RandomControl, ...] = ()


class Detection(Section):
    """The rules by which completions are read."""

    strict: Annotated[tuple[str, ...], Field(min_length=1)]
    relaxed: tuple[str, ...] = ()
    """Further triggers; the relaxed set is these and the strict ones."""
    priority: Literal["strict", "earliest"] = "strict"
    """Which event is the onset: the first strict one if there is any, or the earliest of both kinds."""
    answer_marker: Annotated[str, Field(min_length=1)] = "Final:"
    """The answer is what follows the last line that starts with this mark (or a boxed expression)."""
    steps: Literal["arithmetic_chain"] | None = None
    """The grammar by which steps are checked exactly; null where the text has none."""
    degenerate_repeats: Annotated[int, Field(strict=True, ge=3)] = 6
    """A completion is degenerate if one unit of text is repeated at least this often in a row."""

    @field_validator("strict", "relaxed")
    @classmethod
    def _triggers_are_words(cls, triggers: tuple[str, ...]) -> tuple[str, ...]:
        for trigger in triggers:
            if trigger.strip() != trigger or not trigger:
                raise ValueError(f"trigger {trigger!r} is empty or has spaces around it")
        return triggers

    @model_validator(mode="after")
    def _distinct(self) -> "Detection":
        folded = [trigger.casefold() for trigger in (*self.strict, *self.relaxed)]
        twice = sorted(trigger for trigger, n in Counter(folded).items() if n > 1)
        if twice:
            raise ValueError(f"trigger {twice[0]!r} is listed twice")
        return self


class Statistics(Section):
    confidence: Annotated[Finite, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(strict=True, ge=100, le=1_000_000)] = 10_000
    """Bootstrap resamples and sampled sign flips."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0


class Checks(Section):
    """From where on a cell's checks warn or fail."""

    accuracy_above_shuffled: Literal["block", "warn"] = "block"
    """What happens at the baseline if accuracy is not above accuracy against shuffled answers: such a table of answers
    may be joined wrongly. `warn` is for models that cannot solve the problems at all."""
    truncated_share: Annotated[Finite, Field(ge=0, le=1)] = 0.2
    """Warn if more than this share of a cell's completions ended at the token cap."""
    degenerate_share: Annotated[Finite, Field(ge=0, le=1)] = 0.05
    """Warn if more than this share of a cell's completions is degenerate."""
    no_answer_share: Annotated[Finite, Field(ge=0, le=1)] = 0.2
    """Warn if no answer was found in more than this share of a cell's completions."""


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
    layer_subsets: Annotated[dict[Name, LayerSubset], Field(min_length=1)]
    scales: Annotated[tuple[Finite, ...], Field(min_length=1)]
    controls: Controls = Controls()
    plan: Annotated[tuple[PlanEntry, ...], Field(min_length=1)]
    detection: Detection
    statistics: Statistics = Statistics()
    checks: Checks = Checks()
    continuation: Continuation | None = None
    """The continuation ablation; a study without this section has no such asset."""

    _source: Path | None = PrivateAttr(default=None)

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
        subsets = self.all_subsets()
        seen: dict[tuple[tuple[int, Component], ...], str] = {}
        for name, subset in self.layer_subsets.items():
            first = seen.setdefault(subset.components(), name)
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
        return self

    def _check_layers(self) -> None:
        for name, subset in self.layer_subsets.items():
            for layer, component in subset.components():
                if not 0 <= layer < self.model.n_layers:
                    raise ValueError(
                        f"layer_subsets.{name}: {component} layer {layer} does not exist; "
                        f"the model has layers 0 to {self.model.n_layers - 1}"
                    )
            if name.startswith("random_") or name in ("targeted", "random"):
                raise ValueError(
                    f"layer_subsets.{name}: targeted, random and names that start with random_ are reserved"
                )

    def _check_scales(self) -> None:
        if len(set(self.scales)) != len(self.scales):
            raise ValueError("scales: a scale is listed twice")
        if any(scale < 0 for scale in self.scales):
            raise ValueError("scales: a scale below 0 would flip the sign of a component; use 0 to 1")
        if BASELINE_SCALE not in self.scales:
            raise ValueError("scales: 1.0 is missing; it is the baseline that every other scale is compared with")

    def all_subsets(self) -> dict[str, LayerSubset]:
        """Targeted subsets in file order, then the random controls, by name."""
        subsets = dict(self.layer_subsets)
        for control in self.controls.random:
            for draw in range(1, control.draws + 1):
                subsets[control.name(draw)] = self._random_draw(control, draw, list(subsets.values()))
        return subsets

    def _draws_of(self, name: str) -> int:
        return sum(control.of == name for control in self.controls.random)

    def control_of(self, layer_subset: str) -> str | None:
        """The targeted subset that a random control is matched to; None for a targeted subset."""
        for control in self.controls.random:
            if layer_subset in {control.name(draw) for draw in range(1, control.draws + 1)}:
                return control.of
        return None

    def _random_draw(self, control: RandomControl, draw: int, taken: list[LayerSubset]) -> LayerSubset:
        """A subset matched to the control's target and equal to none that is taken."""
        target = self.layer_subsets[control.of]
        excluded = {pair for name in (control.of, *control.outside) for pair in self.layer_subsets[name].components()}
        # A generator of its own for each draw: adding draws never changes the earlier ones.
        source = random.Random(f"{control.seed}|{control.of}|{draw}")
        pools: dict[Component, tuple[list[int], int]] = {}
        kinds: tuple[tuple[Component, int], ...] = (("attention", len(target.attention)), ("mlp", len(target.mlp)))
        known = {subset.components() for subset in taken}
        for component, wanted in kinds:
            free = [layer for layer in range(self.model.n_layers) if (layer, component) not in excluded]
            if wanted > len(free):
                raise ValueError(
                    f"controls.random of {control.of}: {wanted} {component} layers are wanted "
                    f"and {len(free)} lie outside the excluded subsets"
                )
            pools[component] = (free, wanted)
        for _ in range(_MOST_REDRAWS):
            drawn = {kind: tuple(sorted(source.sample(free, wanted))) for kind, (free, wanted) in pools.items()}
            subset = LayerSubset(attention=drawn["attention"], mlp=drawn["mlp"])
            if subset.components() not in known:
                return subset
        raise ValueError(
            f"controls.random of {control.of}: no {control.draws} different draws lie outside the excluded subsets; "
            "lower draws"
        )

    def planned_cells(self) -> tuple[Cell, ...]:
        """The cells of the study, each once: in the order of the plan, scales in file order."""
        return cells_named(self.plan, tuple(self.layer_subsets), self._control_names(), self.scales)

    def continuation_cells(self) -> tuple[Cell, ...]:
        """The interventions of the continuation ablation, each once; none where the file has no such section."""
        entries = () if self.continuation is None else self.continuation.cells
        return cells_named(entries, tuple(self.layer_subsets), self._control_names(), self.scales)

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
