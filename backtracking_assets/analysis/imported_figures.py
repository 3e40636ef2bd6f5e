"""An imported run's published figures beside what its events give."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backtracking_assets.analysis.statistics import Estimate, share
from backtracking_assets.imported_records import (
    EVENTS_FILE,
    Denominator,
    ImportedEvent,
    Outcome,
    PublishedFigure,
    RunFolder,
    Scope,
)

_EQUAL_WITHIN = 1e-6
"""Published shares have at least six places."""


@dataclass(frozen=True)
class _Recomputed:
    """A figure from the events; its interval is None where it is a count or compares two groups."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_examples: int | None = None
    method: str | None = None


_Compute = Callable[[Sequence[ImportedEvent], float], _Recomputed | None]


def imported_figures(run: RunFolder, confidence: float) -> list[dict[str, Any]]:
    """Rows of `IMPORTED_FIGURES` without the run's id: what the events give by variant and condition, then every
    published figure beside what they give of it. An accuracy has a row for either denominator.
    """
    events = run.events or []
    rows = _by_condition(events, confidence)
    scopes = {figure.scope for figure in run.figures if figure.scope is not None}
    chosen = {scope: _within(events, scope) for scope in scopes}
    totals: dict[Scope, float] = {}
    for figure in run.figures:
        if figure.scope is not None and figure.measure in TOTALS:
            totals[figure.scope] = max(totals.get(figure.scope, 0.0), figure.value)
    for figure in run.figures:
        own = chosen.get(figure.scope, []) if figure.scope is not None else []
        rows += _beside(figure, own, totals.get(figure.scope) if figure.scope else None, confidence)
    return rows


def estimate_of(events: Sequence[ImportedEvent], holds: Callable[[ImportedEvent], bool], confidence: float) -> Estimate:
    """The share of the completions for which something holds, its interval clustered by example."""
    return share(
        [float(holds(event)) for event in events],
        [1.0] * len(events),
        [event.example_id for event in events],
        confidence=confidence,
    )


def _within(events: Iterable[ImportedEvent], scope: Scope) -> list[ImportedEvent]:
    return [
        event
        for event in events
        if scope.variant in (None, event.variant)
        and scope.condition in (None, event.condition)
        and scope.has_strict in (None, event.has_strict)
    ]


def _by_condition(events: Sequence[ImportedEvent], confidence: float) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[ImportedEvent]] = {}
    for event in events:
        groups.setdefault((event.variant, event.condition), []).append(event)
    rows: list[dict[str, Any]] = []
    for (variant, condition), own in sorted(groups.items()):
        for measure in ("total", "backtracking_strict_rate", "backtracking_relaxed_rate", "accuracy", "unknown_count"):
            figure = PublishedFigure(EVENTS_FILE, f"{variant} / {condition}", measure, 0.0, Scope(variant, condition))
            for denominator, compute in _computed(measure).items():
                found = compute(own, confidence)
                if found is not None:
                    rows.append(_row(figure, denominator, None, found, "only recomputed"))
    return rows


def _beside(
    figure: PublishedFigure, events: Sequence[ImportedEvent], total: float | None, confidence: float
) -> list[dict[str, Any]]:
    computed: dict[Denominator, _Recomputed] = {
        denominator: found
        for denominator, compute in (_computed(figure.measure) if events else {}).items()
        if (found := compute(events, confidence)) is not None
    }
    if not computed:
        return [_row(figure, "", figure.value, _Recomputed(None), "only published")]
    equal = {denominator: _is_equal(figure.value, found.value) for denominator, found in computed.items()}
    # Two figures of as many completions as published can be compared; of fewer, they can only be shown.
    fewer = total is not None and len(events) < total
    rows = []
    for denominator, found in computed.items():
        outcome: Outcome = "equal" if equal[denominator] else "other denominator" if any(equal.values()) else "differs"
        rows.append(_row(figure, denominator, figure.value, found, "fewer events" if fewer else outcome))
    return rows


def _row(
    figure: PublishedFigure, denominator: Denominator, published: float | None, found: _Recomputed, outcome: Outcome
) -> dict[str, Any]:
    scope = figure.scope or Scope()
    return {
        "file": figure.file,
        "entry": figure.entry,
        "measure": figure.measure,
        "denominator": denominator,
        "variant": scope.variant,
        "condition": scope.condition,
        "layer_subset": figure.layer_subset,
        "scale": figure.scale,
        "n_components": figure.n_components,
        "published": published,
        "recomputed": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "n_examples": found.n_examples,
        "method": found.method,
        "outcome": outcome,
    }


def _is_equal(published: float, recomputed: float | None) -> bool:
    return recomputed is not None and abs(published - recomputed) <= _EQUAL_WITHIN * max(1.0, abs(published))


def _computed(measure: str) -> Mapping[Denominator, _Compute]:
    """How a measure is computed from the completions it is about, by denominator; none where events do not allow it."""
    if measure in _ACCURACIES:
        of = _ACCURACIES[measure]
        return {"all": _accuracy(of, answered=False), "answered": _accuracy(of, answered=True)}
    compute = _MEASURES.get(measure)
    return {} if compute is None else {"": compute}


def _accuracy(strict: bool | None, *, answered: bool) -> _Compute:
    def compute(events: Sequence[ImportedEvent], confidence: float) -> _Recomputed | None:
        if all(event.is_correct is None for event in events):
            return None
        own = [
            event for event in _within(events, Scope(has_strict=strict)) if event.is_correct is not None or not answered
        ]
        return _shared(own, lambda event: bool(event.is_correct), confidence)

    return compute


def _shared(
    events: Sequence[ImportedEvent], holds: Callable[[ImportedEvent], bool], confidence: float
) -> _Recomputed | None:
    if not events:
        return None
    found = estimate_of(events, holds, confidence)
    return _Recomputed(found.estimate, found.low, found.high, found.n, found.n_clusters, found.method)


def _rate(holds: Callable[[ImportedEvent], bool | None]) -> _Compute:
    def compute(events: Sequence[ImportedEvent], confidence: float) -> _Recomputed | None:
        if any(holds(event) is None for event in events):
            return None
        return _shared(events, lambda event: bool(holds(event)), confidence)

    return compute


def _count(holds: Callable[[ImportedEvent], bool | None]) -> _Compute:
    def compute(events: Sequence[ImportedEvent], confidence: float) -> _Recomputed | None:
        found = [holds(event) for event in events]
        return None if None in found else _Recomputed(float(sum(map(bool, found))), n=len(events))

    return compute


def _known(of: Callable[[ImportedEvent], bool]) -> _Compute:
    """A count over answers; none where the file has no verdict at all."""

    def compute(events: Sequence[ImportedEvent], confidence: float) -> _Recomputed | None:
        if all(event.is_correct is None for event in events):
            return None
        return _Recomputed(float(sum(map(of, events))), n=len(events))

    return compute


def _contrast(ratio: bool) -> _Compute:
    """Accuracy with backtracking over, or minus, that without; unknown answers count as wrong, as in the study."""

    def compute(events: Sequence[ImportedEvent], confidence: float) -> _Recomputed | None:
        accuracies = [_accuracy(strict, answered=False)(events, confidence) for strict in (True, False)]
        values = [found.value for found in accuracies if found is not None and found.value is not None]
        if len(values) != 2 or (ratio and values[1] == 0):
            return None
        return _Recomputed(values[0] / values[1] if ratio else values[0] - values[1], n=len(events))

    return compute


TOTALS = ("total", "total_samples", "count")
_strict = _rate(lambda event: event.has_strict)
_relaxed = _rate(lambda event: event.has_relaxed)
_strict_count = _count(lambda event: event.has_strict)
_correct = _known(lambda event: event.is_correct is True)
_ACCURACIES: dict[str, bool | None] = {
    "accuracy": None,
    "accuracy_with_backtracking": True,
    "accuracy_without_backtracking": False,
}
_MEASURES: dict[str, _Compute] = {
    **dict.fromkeys(TOTALS, _count(lambda event: True)),
    **dict.fromkeys(("backtracking_count", "backtracking_strict", "backtracking_strict_count"), _strict_count),
    **dict.fromkeys(("backtracking_rate", "backtracking_strict_rate"), _strict),
    "backtracking_relaxed_count": _count(lambda event: event.has_relaxed),
    "backtracking_relaxed_rate": _relaxed,
    **dict.fromkeys(("correct", "correct_count"), _correct),
    "incorrect_count": _known(lambda event: event.is_correct is False),
    "unknown_count": _known(lambda event: event.is_correct is None),
    "accuracy_lift_ratio": _contrast(ratio=True),
    "accuracy_difference": _contrast(ratio=False),
}
