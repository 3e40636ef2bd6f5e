"""What a report is made from: frames of the shared schemas, and the facts around them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from backtracking_assets.equal_rate_records import EqualRate
from backtracking_assets.experiment import Experiment
from backtracking_assets.records import Cell, FinishReason, Subject, Verdict
from backtracking_assets.reporting.imported_contents import PublishedSection

if TYPE_CHECKING:  # whoever asks how far the plan is needs no frames
    import pandas as pd

TriggerKind = Literal["strict", "relaxed"]
Severity = Literal["error", "warning"]
CellStatus = Literal["done", "partial", "missing"]


@dataclass(frozen=True)
class Study:
    """The facts of an experiment that stand on every page."""

    name: str
    title: str
    disclaimer: str
    confidence: float
    """Coverage of every interval in the frames, such as 0.95."""
    n_problems: int
    samples_per_problem: int
    seeds: Mapping[str, int]
    """Every seed of the study by what it decides, such as `sampling`."""
    resamples: int
    """Sign flips that a p-value is sampled from, where there are too many to go through all."""

    @property
    def completions_per_cell(self) -> int:
        return self.n_problems * self.samples_per_problem


def study_of(experiment: Experiment) -> Study:
    """The facts of an experiment that its reports show."""
    seeds = {
        "problems": experiment.problems.seed,
        "sampling": experiment.sampling.seed,
        "statistics": experiment.statistics.seed,
    }
    seeds |= {f"random controls of {control.of}": control.seed for control in experiment.controls.random}
    return Study(
        name=experiment.name,
        title=experiment.title,
        disclaimer=experiment.disclaimer,
        confidence=experiment.statistics.confidence,
        n_problems=experiment.problems.count,
        samples_per_problem=experiment.problems.samples,
        seeds=seeds,
        resamples=experiment.statistics.resamples,
    )


@dataclass(frozen=True)
class CheckOutcome:
    """One check of a cell and how it ended."""

    name: str
    passed: bool
    severity: Severity
    description: str


@dataclass(frozen=True)
class Event:
    """One trigger in a completion's text."""

    start: int
    """Character at which the trigger starts."""
    end: int
    """Character after its last one."""
    kind: TriggerKind
    event_class: str | None = None
    """What follows it, by `records.EventClass`; None where it was not read."""


@dataclass(frozen=True)
class Completion:
    """One completion as a report shows it."""

    text: str
    events: tuple[Event, ...]
    verdict: Verdict
    finish_reason: FinishReason
    degeneration_rule: str | None
    """The rule that called it degenerate; None where none did."""
    completion_class: str | None = None
    """Its class by `records.CompletionClass`; None where it was not read."""


@dataclass(frozen=True)
class Example:
    """A completion of a cell or a variant beside the baseline's completion of the same problem and sample."""

    cell: Subject
    problem_id: str
    sample_id: int
    question: str
    reference_answer: str
    completion: Completion
    baseline: Completion | None
    no_baseline_because: str = ""
    """Why there is no baseline completion; shown in its place."""


@dataclass(frozen=True)
class Provenance:
    """Where the figures of a report come from and how to get them again."""

    run_ids: tuple[str, ...]
    devices: tuple[str, ...]
    versions: Mapping[str, str]
    """Version of each library that decides the results, by name."""
    commit: str
    command: str
    """The shell command that makes the results again."""
    generated_from: datetime | None
    """When the first and the last chunk of completions was generated; None where there is none."""
    generated_until: datetime | None
    tokens_per_second: float | None
    """Generated tokens per second of generation; None where it is not known."""
    remarks: tuple[str, ...] = ()
    """Sentences on how the completions were made that a reader should know, such as on several kinds of device."""
    host: str = ""
    """The machine that computed the figures: processor, cores, memory, system."""
    checkpoint: Mapping[str, str] = field(default_factory=dict)
    """Digests of the checkpoint by what they are of, and its precision."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Fingerprint of each condition by what it is called."""


@dataclass(frozen=True)
class CellReport:
    """Contents of the page of one cell."""

    study: Study
    cell: Cell
    components: tuple[str, ...]
    """Such as `attention.15`; empty where the cell scales none."""
    control_of: str | None
    """The targeted subset that this random control is matched to."""
    is_baseline: bool
    fingerprint: str
    condition: Mapping[str, Any]
    """The condition as JSON values."""
    problem_set_digest: str
    version: str
    """Digest of what the page is made from: this cell, the statistics and the baseline."""
    primary_measure: str | None
    """Name of the primary measure; None where only the strict rate can serve."""
    metrics: "pd.DataFrame"
    """Rows of `records.METRICS` of this cell."""
    baseline_metrics: "pd.DataFrame | None"
    """Rows of `records.METRICS` of the baseline; None where it is missing or is this cell."""
    comparisons: "pd.DataFrame | None"
    """Rows of `records.COMPARISONS` of this cell; None where there is nothing to compare with."""
    checks: tuple[CheckOutcome, ...]
    examples: tuple[Example, ...]
    provenance: Provenance
    class_examples: tuple[Example, ...] = ()
    """One completion of each class that is not among the examples."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell of the plan and how far it is."""

    cell: Cell
    components: tuple[str, ...]
    control_of: str | None
    status: CellStatus
    n_completions: int
    """Completions that are there; the whole is `Study.completions_per_cell`."""
    checks: tuple[CheckOutcome, ...] = ()


@dataclass(frozen=True)
class ContinuationResults:
    """The continuation ablation in figures, and the facts that they rest on."""

    cells: tuple[Cell, ...]
    """The interventions, in the order of the experiment file."""
    summaries: "pd.DataFrame"
    """Rows of `records.CONTINUATION_SUMMARIES`."""
    confidence: float
    temperature: float
    top_p: float
    continuations: int
    """Of each event, under each intervention."""
    max_new_tokens: int
    """Of a continuation."""
    n_found: int
    """Completions of the baseline with a strict event."""
    n_at_first_token: int
    """Those whose event is predicted by prefill, where nothing acts."""
    n_wanted: int
    """The most events that the experiment file asks for."""
    n_events: int
    n_event_problems: int
    n_controls: int
    n_control_problems: int
    n_same_index: int
    """Controls at the very token index of their event."""
    largest_distance: int
    """The most tokens between the index of a control and that of its event."""


@dataclass(frozen=True)
class ContinuationSection:
    """The continuation ablation as the sweep's page shows it, or why it does not."""

    results: ContinuationResults | None
    absent_because: str = ""


@dataclass(frozen=True)
class EqualRateSection:
    """Layer subsets against the control `trigger_logits` at equal rate, or why they are not shown."""

    results: tuple[EqualRate, ...]
    absent_because: str = ""
    """Empty where there are results, and where the plan has no such control."""


@dataclass(frozen=True)
class ClassRules:
    """What is known of the rules that give completions their class."""

    exact: bool
    """Whether the text's grammar gives the classes exactly."""
    golden: Mapping[str, Any] | None
    """Agreement with the held-out half of the golden set (`data/golden/scores.json`); None where it is not known."""
    golden_absent_because: str = ""
    agreement: tuple[tuple[str, str, int], ...] = ()
    """(exact class, class by the text rules, completions of the baseline); empty where there is no exact class."""


@dataclass(frozen=True)
class PageLink:
    """Another page of the study."""

    href: str
    """Relative to the page that it stands on."""
    text: str
    command: str
    """What writes it."""


@dataclass(frozen=True)
class SweepReport:
    """Contents of the page of the whole sweep."""

    study: Study
    cells: tuple[PlannedCell, ...]
    """Every cell of the plan, in its order."""
    primary_measure: str | None
    """Name of the primary measure; None where only the strict rate can serve."""
    metrics: "pd.DataFrame"
    """Rows of `records.METRICS`, at most one for each cell and measure."""
    comparisons: "pd.DataFrame"
    """Rows of `records.COMPARISONS`, at most one for each cell and measure."""
    examples: tuple[Example, ...]
    cells_digest: str
    """Digest of the cells that the page was made from."""
    provenance: Provenance
    class_rules: ClassRules | None = None
    continuation: ContinuationSection = ContinuationSection(None, "The experiment file has no section for it.")
    published: PublishedSection = field(default_factory=PublishedSection)
    equal_rate: EqualRateSection = EqualRateSection(())
    positive_control: PageLink | None = None
    """The page of the positive control; None where the study has none."""
