"""The sections of an experiment file: the model, problems, prompting, sampling, detection rules, statistics, checks."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictBool, field_validator, model_validator

from backtracking_assets.errors import did_you_mean
from backtracking_assets.section import Finite, Name, Section, Seed


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
    """Completions made durable together, and batched together as far as memory holds them."""
    threads: Annotated[int, Field(strict=True, ge=1)] = 1
    """CPU threads of one model; fixed, because results on a CPU are only bit-identical at equal thread counts."""
    cpu_devices: Annotated[int, Field(strict=True, ge=1, le=1024)] | Literal["auto"] = 1
    """How many processes generate on the CPU at once, each with its own model and `threads`; changes no completion."""
    memory_gib: Annotated[Finite, Field(gt=0)] | None = None
    """Memory of a device that is planned with; none: a share of what the device has. Chunks beyond it are decoded in
    several batches."""
    save_seconds: Annotated[Finite, Field(ge=0)] = 60.0
    """Seconds of decoding that a crash may cost: so often, the chunk at work is kept as far as it is. 0 is after every
    step."""
    mixed_devices: Literal["allow", "refuse"] = "allow"
    """Whether the completions of one condition may come from several kinds of device, whose last bits differ."""


class Means(Section):
    """Means of outputs over the baseline's decode positions, on problems that the sweep does not ask."""

    problems: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 40
    """The next problems after those of the sweep, by the same hash."""
    samples: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 1
    """Completions of each."""


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
    equivalence_margin: Annotated[Finite, Field(gt=0, lt=1)] = 0.05
    """Differences of shares within this margin count as none where a subset is compared with `trigger_logits`."""


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
