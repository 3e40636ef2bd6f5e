"""What is read from a run folder of the reference study's layout: schemas of its tables, and plain records of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

Denominator = Literal["", "all", "answered"]
"""Of an accuracy: all completions, those of unknown answer counted as wrong, or only those whose answer is known."""

Outcome = Literal["equal", "other denominator", "differs", "fewer events", "only recomputed", "only published"]
"""What a published figure and the events make of each other.

`other denominator`: the published accuracy is the one over the other denominator. `fewer events`: the events hold fewer
completions than the figure was published for, so that the two cannot be equal but by chance. `only published`: the
events do not allow the figure.
"""

EVENTS_FILE = "backtracking_events.csv"
SELECTED_LAYERS_FILE = "selected_layers.json"
SWEEP_FILES = ("subset_sweep_results.csv", "scale_sweep_results.csv")
STUDY_BASELINE = "baseline"
"""The study's name of the condition without intervention, and of its row in the sweep over subsets."""


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


_STRING, _INT32, _INT64, _DOUBLE, _BOOL = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()

IMPORTED_RUNS = _schema(
    ("run_id", _STRING, False),
    ("phase1_run_id", _STRING, True),  # the run that a phase 2 run went out from; NULL where none is linked
    ("folder", _STRING, False),  # name of the folder, without the machine's path to it
    ("model_id", _STRING, True),
    ("started_at", _STRING, True),  # as meta.json has it
    ("git_sha", _STRING, True),
    ("hostname", _STRING, True),
    ("files", pa.list_(_STRING), False),  # files of the layout that were there
    ("absent_files", pa.list_(_STRING), False),
    ("n_events", _INT64, False),
    ("n_unreadable", _INT64, False),  # rows and values that were left out
    ("token_cap", _INT32, True),  # found in the events; NULL where they show none
    ("confidence", _DOUBLE, False),  # of the intervals
    ("import_digest", _STRING, False),  # digest of the files and of how they were read
)

IMPORTED_EVENTS = _schema(
    ("run_id", _STRING, False),
    ("condition", _STRING, False),
    ("variant", _STRING, False),
    ("example_id", _STRING, False),
    ("sample_id", _INT32, False),
    ("has_strict", _BOOL, False),
    ("has_relaxed", _BOOL, True),
    ("onset_phrase", _STRING, True),
    ("onset_character", _INT32, True),
    ("onset_token", _INT32, True),
    ("onset_token_id", _INT32, True),
    ("predicted_answer", _STRING, True),
    ("is_correct", _BOOL, True),  # NULL where the study did not know
    ("prompt_tokens", _INT32, True),
    ("completion_tokens", _INT32, True),
    ("finish_reason", _STRING, True),  # NULL where the file has no such column
    ("line", _INT64, False),  # of the file
)

IMPORTED_FIGURES = _schema(
    ("run_id", _STRING, False),
    ("file", _STRING, False),
    ("entry", _STRING, False),  # the row or the section of the file
    ("measure", _STRING, False),  # the column or the key, as the file has it
    ("denominator", _STRING, False),
    ("variant", _STRING, True),
    ("condition", _STRING, True),
    ("layer_subset", _STRING, True),
    ("scale", _DOUBLE, True),
    ("n_components", _INT32, True),
    ("published", _DOUBLE, True),
    ("recomputed", _DOUBLE, True),
    ("low", _DOUBLE, True),
    ("high", _DOUBLE, True),
    ("n", _INT64, True),
    ("n_examples", _INT64, True),  # clusters of the interval
    ("method", _STRING, True),
    ("outcome", _STRING, False),
)

IMPORTED_FAULTS = _schema(
    ("run_id", _STRING, False),
    ("fault", _STRING, False),
    ("figure", _DOUBLE, True),
    ("description", _STRING, False),
)

IMPORTED_UNREADABLE = _schema(
    ("run_id", _STRING, False),
    ("file", _STRING, False),
    ("place", _STRING, False),  # `line 12`, or the path of a JSON value
    ("reason", _STRING, False),
)


@dataclass(frozen=True)
class Unreadable:
    """A row or a value that was left out, and why."""

    file: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, {self.place}: {self.reason}"


@dataclass(frozen=True)
class ImportedEvent:
    """One completion of the study, as its events file has it."""

    line: int
    condition: str
    variant: str
    example_id: str
    sample_id: int
    has_strict: bool
    has_relaxed: bool | None = None
    onset_phrase: str | None = None
    onset_character: int | None = None
    onset_token: int | None = None
    onset_token_id: int | None = None
    predicted_answer: str | None = None
    is_correct: bool | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None


@dataclass(frozen=True)
class Scope:
    """Which completions a figure is about; None takes all."""

    variant: str | None = None
    condition: str | None = None
    has_strict: bool | None = None


@dataclass(frozen=True)
class PublishedFigure:
    """A figure as a file of the study has it."""

    file: str
    entry: str
    measure: str
    value: float
    scope: Scope | None = None
    """None where the events do not allow the figure."""
    layer_subset: str | None = None
    scale: float | None = None
    n_components: int | None = None


@dataclass(frozen=True)
class ContinuationFile:
    """What a continuation ablation's result file holds."""

    file: str
    n_rows: int
    columns: tuple[str, ...]
    n_distinct: int | None
    """Distinct finite values of its probability column; None where it has no such column."""


@dataclass
class RunFolder:
    """A run folder, read: facts, events, published figures, and what could not be read."""

    run_id: str
    folder: str
    meta: dict[str, str]
    files: list[str]
    absent: list[str]
    digests: dict[str, str]
    """sha256 of each file."""
    events: list[ImportedEvent] | None
    """None where the folder has no events file."""
    event_columns: Sequence[str]
    figures: list[PublishedFigure]
    selected: dict[str, tuple[int, ...]] | None
    """Layers by `attention` and `mlp`, the best first."""
    continuations: list[ContinuationFile]
    unreadable: list[Unreadable] = field(default_factory=list)
    n_unreadable: int = 0
