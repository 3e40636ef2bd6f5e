"""The continuation ablation in words and as a table: what it says, each intervention's figures, its limits."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from backtracking_assets.measures import CONTINUATION_MEASURES, ContinuationMeasure
from backtracking_assets.records import UNSCALED, Cell
from backtracking_assets.reporting.contents import ContinuationResults
from backtracking_assets.reporting.formats import NOT_MEASURED, equals_p, plural
from backtracking_assets.reporting.tables import Column

_Place = tuple[Cell, str, str, str]
"""Cell, kind of position, where it was scaled, measure."""

_COLUMNS: tuple[tuple[str, str, str, str, str], ...] = (
    # Kind, where it is scaled, measure, title, which of the two figures is shown.
    ("event", "one_position", "onset_probability", "p(onset)", "estimate"),
    ("event", "one_position", "onset_probability", "Δ p(onset)", "difference"),
    ("event", "one_position", "onset_rank", "rank", "estimate"),
    ("event", "one_position", "trigger_probability", "p(triggers)", "estimate"),
    ("event", "one_position", "entropy", "entropy", "estimate"),
    ("control", "one_position", "trigger_probability", "matched: p(triggers)", "estimate"),
    ("control", "one_position", "trigger_probability", "matched: Δ p(triggers)", "difference"),
    ("control", "one_position", "entropy", "matched: entropy", "estimate"),
    ("event", "one_position", "comes_again", "again, one position", "estimate"),
    ("event", "from_there_on", "comes_again", "again, from there on", "estimate"),
    ("event", "one_position", "comes_within", "within, one position", "estimate"),
    ("event", "from_there_on", "comes_within", "within, from there on", "estimate"),
)
_KINDS = {"event": "At events", "control": "At matched positions without an event"}
_PLACES = {"one_position": "scaled at one position", "from_there_on": "scaled from there on"}


@dataclass(frozen=True)
class Figures:
    """One measure of one intervention, beside the unscaled run."""

    estimate: float
    low: float | None
    high: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p_holm: float | None
    n: int
    n_problems: int


@dataclass(frozen=True)
class ContinuationTable:
    """Columns, and the values of each row as text, the unscaled run first."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def figures_by_place(results: ContinuationResults) -> dict[_Place, Figures]:
    """The figures by cell, kind of position, where it was scaled, and measure."""
    found: dict[_Place, Figures] = {}
    for row in results.summaries.to_dict("records"):
        cell = Cell(str(row["layer_subset"]), float(row["scale"]))
        found[cell, str(row["kind"]), str(row["scaled_at"]), str(row["measure"])] = Figures(
            estimate=float(row["estimate"]),
            n=int(row["n"]),
            n_problems=int(row["n_problems"]),
            **{
                name: None if pd.isna(row[name]) else float(row[name])
                for name in ("low", "high", "difference", "difference_low", "difference_high", "p_holm")
            },
        )
    return found


def figures_at(found: Mapping[_Place, Figures], cell: Cell, kind: str, scaled_at: str, measure: str) -> Figures | None:
    """One of them; the unscaled run stands beside either place. None where there is none."""
    return found.get((cell, kind, "nowhere" if cell == UNSCALED else scaled_at, measure))


def continuation_answer(results: ContinuationResults) -> str:
    """One sentence: which intervention lowers the onset token's probability most, and what it does elsewhere."""
    found = figures_by_place(results)
    unscaled = figures_at(found, UNSCALED, "event", "", "onset_probability")
    drops = {
        cell: own
        for cell in results.cells
        if (own := figures_at(found, cell, "event", "one_position", "onset_probability")) is not None
        and own.difference is not None
    }
    if unscaled is None or not drops:
        return "Nothing was measured."
    cell = min(drops, key=lambda cell: drops[cell].difference or 0.0)
    own, measure = drops[cell], CONTINUATION_MEASURES["onset_probability"]
    events = f"{plural(own.n, 'event')} of {plural(own.n_problems, 'problem')}"
    if own.difference_high is None or own.difference_high >= 0:
        return (
            f"No intervention at the one position before the onset clearly lowers the onset token's probability, "
            f"{_estimate(unscaled, measure)} without any; the largest drop is that of {cell}, "
            f"{_difference(own, measure)} over {events}."
        )
    answer = (
        f"{cell}, at the one position before the onset, takes the onset token's probability from "
        f"{_estimate(unscaled, measure)} to {_estimate(own, measure)}, a paired difference of "
        f"{_difference(own, measure)} over {events} (Holm-corrected {equals_p(own.p_holm)})"
    )
    elsewhere = figures_at(found, cell, "control", "one_position", "trigger_probability")
    if elsewhere is None:
        return f"{answer}."
    changed = _difference(elsewhere, CONTINUATION_MEASURES["trigger_probability"])
    return (
        f"{answer}; at {plural(elsewhere.n, 'matched position')} without an event, that of all trigger tokens "
        f"changes by {changed}."
    )


def continuation_table(results: ContinuationResults) -> ContinuationTable:
    """Every intervention and the unscaled run."""
    found = figures_by_place(results)
    columns = [Column("subset", "left"), Column("scale", "right")]
    for kind, place, name, title, shown in _COLUMNS:
        measure = CONTINUATION_MEASURES[name]
        where = f", {_PLACES[place]}" if measure.sampled else ""
        minus = " Minus the unscaled run, paired by position." if shown == "difference" else ""
        columns.append(Column(title, "right", f"{_KINDS[kind]}{where}. {measure.label}: {measure.description}{minus}"))
    rows = []
    for cell in (UNSCALED, *results.cells):
        values = [cell.layer_subset, f"{cell.scale:g}"]
        for kind, place, name, _, shown in _COLUMNS:
            own = figures_at(found, cell, kind, place, name)
            write = _difference if shown == "difference" else _estimate
            values.append(NOT_MEASURED if own is None else write(own, CONTINUATION_MEASURES[name]))
        rows.append(tuple(values))
    return ContinuationTable(tuple(columns), tuple(rows))


def continuation_limits(results: ContinuationResults) -> tuple[str, ...]:
    """Sentences that say what was looked at and what the figures cannot tell."""
    left_out = results.n_found - results.n_at_first_token - results.n_events
    events = (
        f"{plural(results.n_events, 'event')} of {plural(results.n_event_problems, 'problem')}: the first strict "
        f"trigger of a completion, in {results.n_found:,} completions of the baseline; {results.n_at_first_token:,} "
        f"at the first token, which prefill predicts, and {left_out:,} more are left out (at most "
        f"{results.n_wanted:,} are wanted, drawn evenly over problems by hash)."
    )
    controls = (
        f"{plural(results.n_controls, 'matched position')} of {plural(results.n_control_problems, 'problem')}, each in "
        f"a completion of its own without any trigger, behind the same token as its event; {_distances(results)}."
    )
    if results.n_controls < results.n_events:
        controls += f" For {results.n_events - results.n_controls:,} events there was none left."
    return (
        events,
        controls,
        "Probabilities and entropy are the model's own at temperature 1, from the raw logits; rank 1 is the most "
        "probable token. A trigger of several tokens counts by its first, whatever may follow it.",
        "Events are places where the baseline happened to draw a trigger, so its probability there is higher than at "
        "all places where one could stand; compare a row with the unscaled one, not with other models.",
        f"Continuations: {results.continuations:,} of each event under each intervention, up to "
        f"{plural(results.max_new_tokens, 'token')} at temperature {results.temperature:g} and top-p "
        f"{results.top_p:g}, with the same noise under all of them. “Again” means that their first words are a strict "
        "trigger, “within” that one stands anywhere. Scaling at one position and from there on share the first token, "
        "so where a trigger is one token, “again” hardly differs between them.",
        f"Intervals of {results.confidence:.0%} and differences are clustered by problem; p is corrected over the "
        "interventions.",
    )


def _distances(results: ContinuationResults) -> str:
    if results.n_same_index == results.n_controls:
        return "all at the same token index"
    return (
        f"{results.n_same_index:,} at the same token index, the others up to "
        f"{plural(results.largest_distance, 'token')} away"
    )


def _estimate(own: Figures, measure: ContinuationMeasure) -> str:
    return _with_interval(own.estimate, own.low, own.high, measure, signed=False)


def _difference(own: Figures, measure: ContinuationMeasure) -> str:
    if own.difference is None:
        return NOT_MEASURED
    return _with_interval(own.difference, own.difference_low, own.difference_high, measure, signed=True)


def _with_interval(
    value: float, low: float | None, high: float | None, measure: ContinuationMeasure, *, signed: bool
) -> str:
    text = _number(value, measure, signed)
    if low is None or high is None:
        return text
    return f"{text} [{_number(low, measure, signed)}, {_number(high, measure, signed)}]"


def _number(value: float, measure: ContinuationMeasure, signed: bool) -> str:
    places = 1 if measure.unit == "rank" else 2 if measure.unit == "share" else 3
    rounded = round(value, places) or 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{places}f}".replace("-", "−")
