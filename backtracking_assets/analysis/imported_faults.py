"""Faults of an imported run that its files show, each with its figure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from backtracking_assets.analysis.imported_figures import TOTALS, estimate_of
from backtracking_assets.analysis.statistics import Estimate
from backtracking_assets.imported_records import STUDY_BASELINE, SWEEP_FILES, ImportedEvent, PublishedFigure, RunFolder

_LEAST_AT_CAP = 0.01
"""Share of completions of the very same, greatest length from which on that length must be the token cap."""

_MOST_COMPLETIONS = 10**9
_WHOLE_WITHIN = 1e-3
"""A denominator that an accuracy of six places or more gives is a whole number of completions but for rounding."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a run, and the figure that shows it."""

    fault: str
    figure: float | None
    description: str


@dataclass(frozen=True)
class BaselineAccuracy:
    """Phase 1's accuracy at its baseline, to hold the sweep's against."""

    estimate: Estimate
    said: str


def token_cap(events: Sequence[ImportedEvent]) -> int | None:
    """The token cap that the events show: the greatest length, where many completions have exactly that; else None."""
    lengths = Counter(event.completion_tokens for event in events if event.completion_tokens is not None)
    if not lengths:
        return None
    longest = max(lengths)
    return longest if lengths[longest] >= max(2, _LEAST_AT_CAP * lengths.total()) else None


def baseline_accuracy(
    run_id: str, events: Sequence[ImportedEvent], figures: Sequence[PublishedFigure], confidence: float
) -> BaselineAccuracy | None:
    """Accuracy of a run's baseline with the variant of its ablations, unknown answers counted as wrong.

    From the events where they are all there, else as published; None where the run has neither.
    """
    variant = _ablated_variant(events, figures)
    own = [event for event in events if event.condition == STUDY_BASELINE and variant in (None, event.variant)]
    known = any(event.is_correct is not None for event in own)
    published = _published_baseline(run_id, figures, variant, confidence)
    # Events of only a part of the completions tell less than the figure that was published for all of them.
    if not known or (published is not None and published.estimate.n > len(own)):
        return published
    found = estimate_of(own, lambda event: event.is_correct is True, confidence)
    return BaselineAccuracy(found, f"the baseline{_of(variant)} in {len(own):,} events of run {run_id}")


def _published_baseline(
    run_id: str, figures: Sequence[PublishedFigure], variant: str | None, confidence: float
) -> BaselineAccuracy | None:
    wanted = (("condition_comparison.csv", f"{variant} / {STUDY_BASELINE}"), ("formatting_summary.csv", variant))
    for file, entry in wanted if variant is not None else ():
        values = {figure.measure: figure.value for figure in figures if (figure.file, figure.entry) == (file, entry)}
        if {"total", "accuracy"} <= values.keys():
            found = _of_counts(values["accuracy"] * values["total"], values["total"], confidence)
            if found is not None:
                return BaselineAccuracy(found, f"the baseline{_of(variant)} as published in {file} of run {run_id}")
    return None


def _of(variant: str | None) -> str:
    return f" of {variant}" if variant else ""


def _ablated_variant(events: Sequence[ImportedEvent], figures: Sequence[PublishedFigure]) -> str | None:
    """The one variant that other conditions than the baseline were run with; None where there is not just one."""
    found = {event.variant for event in events if event.condition != STUDY_BASELINE}
    for figure in figures:
        scope = figure.scope
        if scope is not None and scope.variant is not None and scope.condition not in (None, STUDY_BASELINE):
            found.add(scope.variant)
    return found.pop() if len(found) == 1 else None


def imported_faults(
    run: RunFolder, figures: Sequence[dict[str, Any]], phase1: BaselineAccuracy | None, confidence: float
) -> list[Fault]:
    """The faults of a run; `figures` are its rows of `IMPORTED_FIGURES`, `phase1` what its sweep is held against."""
    faults = [
        *_of_missing(figures),
        *_of_sweep(run.figures, phase1, confidence),
        *_of_continuations(run),
        *_of_denominators(run.figures, figures),
    ]
    if run.events:
        faults = [*_of_events(run, run.events, confidence), *faults]
    return faults


def _of_events(run: RunFolder, events: Sequence[ImportedEvent], confidence: float) -> Iterator[Fault]:
    cap = token_cap(events)
    if cap is not None:
        sized = [event for event in events if event.completion_tokens is not None]
        found = estimate_of(sized, lambda event: event.completion_tokens == cap, confidence)
        by_condition = []
        for condition in sorted({event.condition for event in sized}):
            own = [event for event in sized if event.condition == condition]
            at_cap = sum(event.completion_tokens == cap for event in own)
            by_condition.append(f"{condition} {at_cap / len(own):.1%} of {len(own):,}")
        yield Fault(
            "at_token_cap",
            found.estimate,
            f"{_percent(found)} of {len(sized):,} completions have exactly {cap:,} tokens, the token cap: they were "
            f"cut off there ({'; '.join(by_condition)}).",
        )
    if "finish_reason" not in run.event_columns:
        yield Fault(
            "no_finish_reason",
            None,
            "The events have no finish reason: which completions were cut off can be told by their length alone.",
        )
    else:
        reasons = {event.finish_reason for event in events}
        if len(reasons) == 1 and cap is not None:
            yield Fault(
                "constant_finish_reason",
                None,
                f"Every completion has the finish reason {next(iter(reasons))!r}, those at the token cap included.",
            )
    beyond = [
        event
        for event in events
        if event.onset_token is not None
        and event.completion_tokens is not None
        and event.onset_token >= event.completion_tokens
    ]
    if beyond:
        yield Fault(
            "onset_beyond_text",
            float(len(beyond)),
            f"{len(beyond):,} events begin at or after the last token of their completion, the first at line "
            f"{beyond[0].line}: the onset was counted in another tokenization.",
        )


def _of_missing(figures: Sequence[dict[str, Any]]) -> Iterator[Fault]:
    """That the events hold fewer completions than were published for, by the largest published total."""
    fewer = [row for row in figures if row["outcome"] == "fewer events" and row["measure"] in TOTALS]
    if fewer:
        row = max(fewer, key=lambda row: row["published"])
        yield Fault(
            "fewer_events",
            float(row["recomputed"]),
            f"The events hold {row['recomputed']:,.0f} of the {row['published']:,.0f} completions of "
            f"{row['file']}, {row['entry']}: figures from them are of these completions alone.",
        )


def _of_sweep(
    figures: Sequence[PublishedFigure], phase1: BaselineAccuracy | None, confidence: float
) -> Iterator[Fault]:
    swept = {f.measure: f.value for f in figures if f.file == SWEEP_FILES[0] and f.layer_subset == STUDY_BASELINE}
    if phase1 is None or not {"total", "accuracy"} <= swept.keys():
        return
    own = _of_counts(swept["accuracy"] * swept["total"], swept["total"], confidence)
    reference = phase1.estimate
    if own is None or own.high is None or own.low is None or reference.low is None or reference.high is None:
        return
    if own.high < reference.low:
        yield Fault(
            "sweep_baseline_accuracy",
            own.estimate,
            f"The sweep's baseline has an accuracy of {_percent(own)} of {own.n:,}, counted as if completions were "
            f"independent, where {phase1.said} has {_percent(reference)}: as where answers are "
            "held against those of other problems; the sweep's accuracies cannot be relied on.",
        )


def _of_continuations(run: RunFolder) -> Iterator[Fault]:
    for file in run.continuations:
        if file.n_distinct is None:
            yield Fault(
                f"no_probability: {file.file}",
                float(file.n_rows),
                f"{file.file} has {file.n_rows:,} rows and no column with a probability: the continuation ablation "
                "measured nothing.",
            )
        elif file.n_distinct <= 1:
            what = "no value" if file.n_distinct == 0 else "the same value in every row"
            yield Fault(
                f"empty_probability: {file.file}",
                float(file.n_rows),
                f"{file.file} has {file.n_rows:,} rows with {what} in its column with a probability: the continuation "
                "ablation measured nothing.",
            )


def _of_denominators(published: Sequence[PublishedFigure], figures: Sequence[dict[str, Any]]) -> Iterator[Fault]:
    """That published accuracies do not share a denominator, where the events or published counts tell the two apart."""
    told = _told_by_counts(published)
    for row in figures:
        if row["outcome"] == "equal" and row["denominator"]:
            told.setdefault((row["file"], row["entry"], row["measure"]), set()).add(row["denominator"])
    used = {kind: sorted(key for key, own in told.items() if own == {kind}) for kind in ("all", "answered")}
    if used["all"] and used["answered"]:
        files = dict.fromkeys(file for file, _, _ in used["answered"])
        yield Fault(
            "two_denominators",
            float(len(used["answered"])),
            f"Published accuracies have two denominators: {len(used['all'])} are over all completions, "
            f"{len(used['answered'])} over those with a known answer alone ({', '.join(files)}).",
        )


def _told_by_counts(published: Sequence[PublishedFigure]) -> dict[tuple[str, str, str], set[str]]:
    """The denominator of each accuracy of whose completions the correct ones and all are published, in any file."""
    correct = {f.scope: f.value for f in published if f.scope is not None and f.measure in ("correct", "correct_count")}
    totals = {f.scope: f.value for f in published if f.scope is not None and f.measure in TOTALS}
    told: dict[tuple[str, str, str], set[str]] = {}
    for figure in published:
        if figure.scope is None or figure.measure != "accuracy":
            continue
        hits, total = correct.get(figure.scope, 0.0), totals.get(figure.scope, 0.0)
        if not 0 < hits <= total or not 0 < figure.value <= 1:
            continue
        denominator = hits / figure.value
        if denominator > total + _WHOLE_WITHIN:
            continue
        if abs(denominator - round(denominator)) <= _WHOLE_WITHIN and hits <= round(denominator):
            kind = "all" if round(denominator) == round(total) else "answered"
            told[figure.file, figure.entry, figure.measure] = {kind}
    return told


def _of_counts(hits: float, total: float, confidence: float) -> Estimate | None:
    """The share of a published count; its interval takes completions for independent, as clusters are not known."""
    if not 1 <= total <= _MOST_COMPLETIONS or not 0 <= hits <= total:
        return None
    n, k = round(total), round(hits)
    low, high = np.asarray(proportion_confint(k, n, alpha=1 - confidence, method="wilson"))
    return Estimate(k / n, float(low), float(high), n, n, "Wilson, completions taken for independent")


def _percent(found: Estimate) -> str:
    if found.estimate is None:
        return "no figure"
    interval = "" if found.low is None or found.high is None else f" [{found.low:.1%}, {found.high:.1%}]"
    return f"{found.estimate:.1%}{interval}"
