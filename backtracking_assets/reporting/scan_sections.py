"""Phase 1's scan in words, tables and figures: the logit lens, every component, and the components selected."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from backtracking_assets.reporting.formats import NOT_MEASURED, equals_p, format_p, join_names, plural
from backtracking_assets.reporting.scan_figures import lens_figure, scan_figure, selection_figure
from backtracking_assets.reporting.sections import Section, SectionTable, draw_picture
from backtracking_assets.reporting.tables import Column
from backtracking_assets.scan_records import EMBEDDING

LENS_TITLE = "Where in the layers the onset token appears"
SCAN_TITLE = "Which component takes the trigger away"
SELECTION_TITLE = "The components selected"

_Row = Mapping[str, Any]
_SHOWN = 10
"""Rows of each kind in the table of components."""


@dataclass(frozen=True)
class ScanFacts:
    """What the scan's figures rest on."""

    confidence: float
    n_held_out: int
    """Problems of phase 1 that the sweep does not use."""
    n_completions: int
    n_found: int
    """Completions with a strict event."""
    n_at_first_token: int
    """Those whose event is predicted by prefill."""
    n_wanted: int
    n_events: int
    n_event_problems: int
    n_controls: int
    n_same_index: int
    """Controls at the very token index of their event."""
    largest_distance: int
    """The most tokens between the index of a control and that of its event."""


def lens_section(summaries: pd.DataFrame, facts: ScanFacts, *, pictured: bool = True) -> Section:
    """The logit lens, from rows of `scan_records.LENS_SUMMARIES`."""
    found = {(str(row["measure"]), int(row["layer"])): row for row in _records(summaries)}
    layers = sorted({layer for _, layer in found})
    probability = {layer: found["onset_log_probability", layer] for layer in layers}
    rank = {layer: found["onset_rank", layer] for layer in layers}
    apart = [layer for layer in layers if _above_zero(probability[layer])]
    # From where on the difference never goes away again.
    lasting = next((layer for layer in layers if all(later in apart for later in layers[layers.index(layer) :])), None)
    last = probability[layers[-1]]
    said = (
        f"After the last layer, the onset token's log-probability is {_figure(last, 'event_')} at events and "
        f"{_figure(last, 'control_')} at matched positions; the paired difference is {_difference(last)} "
        f"(Holm-corrected over the layers, {equals_p(_value(last, 'p_holm'))})."
    )
    where = (
        "After no layer up to the last one does the difference stay above 0."
        if lasting is None
        else f"From {_layer(lasting)} on, the difference stays above 0 with its interval."
    )
    columns = (
        Column("after", "left"),
        Column("log-probability, events", "right", "Mean over events, nats."),
        Column("matched", "right", "Mean over matched positions without an event, of the token that began the event."),
        Column("difference", "right", "Event minus its matched position, in pairs."),
        Column("p (Holm)", "right", "Two-sided, corrected over the layers."),
        Column("rank, events", "right", "Mean rank of the onset token; 1 is the most probable."),
        Column("rank, matched", "right"),
    )
    rows = tuple(
        (
            _layer(layer),
            _figure(probability[layer], "event_"),
            _figure(probability[layer], "control_"),
            _difference(probability[layer]),
            format_p(_value(probability[layer], "p_holm")),
            _number(_value(rank[layer], "event_estimate"), 1),
            _number(_value(rank[layer], "control_estimate"), 1),
        )
        for layer in layers
    )
    return Section(
        LENS_TITLE,
        (said, where),
        ()
        if not pictured
        else (
            draw_picture(
                lambda narrow: lens_figure(summaries, narrow),
                "Logit, log-probability and rank of the onset token by layer, at events and at matched positions.",
                f"The residual stream after each layer, read through the final norm and the unembedding. Bands: "
                f"{facts.confidence:.0%} intervals by problem.",
            ),
        ),
        (SectionTable("The onset token after every layer", columns, rows),),
        (
            *_positions(facts),
            "Early layers write in a basis that the final norm and the unembedding were not made for, so a low rank "
            "there does not mean that the decision is not yet made.",
        ),
    )


def scan_section(
    summaries: pd.DataFrame, selected: frozenset[tuple[str, int]], facts: ScanFacts, *, pictured: bool = True
) -> Section:
    """The component scan, from rows of `scan_records.COMPONENT_SUMMARIES`."""
    found = {
        tuple(row[name] for name in ("mode", "component", "kind", "measure", "layer")): row
        for row in _records(summaries)
    }
    drops = [row for row in found.values() if row["measure"] == "specific_drop" and row["mode"] == "zero"]
    ranked = {
        kind: sorted(
            (row for row in drops if row["component"] == kind), key=lambda row: (-row["estimate"], row["layer"])
        )
        for kind in ("attention", "mlp")
    }
    best = [own[0] for own in ranked.values() if own]
    named = join_names(
        f"{row['component']} {row['layer']} with {_number(row['estimate'], 2, signed=True)} nats "
        f"{_interval(row, '', 2, signed=True)}"
        for row in best
    )
    specific = [row for row in drops if _lies_above_zero(row) and row["p_holm"] < 1 - facts.confidence]
    columns = (
        Column("component", "left"),
        Column("specific drop", "right", "Loss at the event minus loss at its matched position, scaled to 0; nats."),
        Column("p (Holm)", "right", "Of the specific drop, two-sided, corrected over all components."),
        Column("to its mean", "right", "Specific drop where the output is moved to its mean instead of 0."),
        Column("Δ trigger", "right", "Change of the log-probability that a trigger begins, at events."),
        Column("Δ onset", "right", "Change of the onset token's log-probability, at events."),
        Column(
            "Δ logit difference",
            "right",
            "Change of the onset token's logit minus that of the most probable token of the unscaled run that begins "
            "no trigger, at events.",
        ),
        Column("Δ ordinary", "right", "Change of that ordinary token's log-probability, at events."),
        Column("Δ drawn", "right", "Change of the log-probability of the token that was drawn, at matched positions."),
        Column("KL", "right", "Divergence of the next token's distribution from the unscaled one, at events; nats."),
        Column("KL, no trigger", "right", "The same among tokens that begin no trigger."),
    )
    rows = []
    for component, own in ranked.items():
        for layer in (row["layer"] for row in own[:_SHOWN]):
            at = {
                name: found[key]
                for name, key in {
                    "drop": ("zero", component, "event", "specific_drop", layer),
                    "mean": ("mean", component, "event", "specific_drop", layer),
                    "trigger": ("zero", component, "event", "trigger_log_probability", layer),
                    "onset": ("zero", component, "event", "onset_log_probability", layer),
                    "difference": ("zero", component, "event", "logit_difference", layer),
                    "ordinary": ("zero", component, "event", "ordinary_log_probability", layer),
                    "drawn": ("zero", component, "control", "ordinary_log_probability", layer),
                    "kl": ("zero", component, "event", "kl", layer),
                    "kl_ordinary": ("zero", component, "event", "kl_ordinary", layer),
                }.items()
            }
            rows.append(
                (
                    f"{component} {layer}",
                    _with_interval(at["drop"]),
                    format_p(_value(at["drop"], "p_holm")),
                    _with_interval(at["mean"]),
                    *(_number(at[name]["estimate"], 2, signed=True) for name in ("trigger", "onset", "difference")),
                    *(_number(at[name]["estimate"], 2, signed=True) for name in ("ordinary", "drawn")),
                    *(_number(at[name]["estimate"], 3) for name in ("kl", "kl_ordinary")),
                )
            )
    return Section(
        SCAN_TITLE,
        (
            f"Scaled to 0 at the one position before the onset, the most specific component of each kind is {named}.",
            f"Of {len(drops)} components, {len(specific)} have a specific drop above 0 (Holm-corrected p below "
            f"{1 - facts.confidence:.2g}): {_names(specific)}.",
        ),
        ()
        if not pictured
        else (
            draw_picture(
                lambda narrow: scan_figure(summaries, selected, narrow),
                "Heat strips over the layers: loss at events, loss at matched positions, and their difference.",
                "A: loss of the trigger's log-probability at events. B: loss of the drawn token's log-probability at "
                "matched positions, which a component that breaks the model loses as well. C: A minus B, in pairs. "
                "Colors are logarithmic beyond a tenth of the scale, which ends at the 97% quantile of all values. "
                "Framed: the selected components.",
            ),
        ),
        (SectionTable(f"The {_SHOWN} most specific components of each kind", columns, tuple(rows)),),
        (
            *_positions(facts),
            "One component at one position is changed; components that stand in for each other lose little alone. "
            "What several lose together is for the sweep's subsets.",
            "At events the baseline drew a trigger, at matched positions it did not, and the two are equally sharp "
            "only by chance: a component that makes all predictions less sharp by the same logits loses more where "
            "the prediction was less sharp.",
        ),
    )


def selection_section(selection: pd.DataFrame, facts: ScanFacts, *, pictured: bool = True) -> Section:
    """The selected components, from rows of `scan_records.SELECTED_COMPONENTS`."""
    ordered = sorted(_records(selection), key=lambda row: (row["component"], row["rank"]))
    chosen = [row for row in ordered if row["selected"]]
    layers = {
        kind: ", ".join(str(row["layer"]) for row in chosen if row["component"] == kind)
        for kind in ("attention", "mlp")
    }
    named = "; ".join(f"{kind} {listed}" for kind, listed in layers.items())
    above = [row for row in chosen if _lies_above_zero(row)]
    columns = (
        Column("component", "left"),
        Column("rank", "right", "Within its kind, by the criterion."),
        Column("score", "right", "By the criterion, nats."),
        Column("selected in", "right", "Share of bootstrap resamples of problems in which it is selected."),
    )
    rows = tuple(
        (
            f"{row['component']} {row['layer']}",
            str(row["rank"]),
            _with_interval(row, name="score"),
            f"{float(row['selected_share']):.0%}",
        )
        for row in chosen
    )
    return Section(
        SELECTION_TITLE,
        (
            f"Best first: {named}.",
            f"The scores of {len(above)} of these {len(chosen)} have an interval above 0: {_names(above)}. The others "
            "fill up the number that is asked for.",
            f"Criterion: {selection['criterion'].iloc[0]}",
        ),
        ()
        if not pictured
        else (
            draw_picture(
                lambda narrow: selection_figure(selection, narrow),
                "The best components of each kind with intervals, and how often each is selected.",
                f"Filled: selected. Intervals of {facts.confidence:.0%} by problem.",
            ),
        ),
        (SectionTable("Selected components", columns, rows),),
        (
            "Selected on problems that the sweep does not use. The score of a selected component is likely to be too "
            "high, as it was selected for it; the sweep measures what it does.",
        ),
    )


def _positions(facts: ScanFacts) -> tuple[str, ...]:
    left_out = facts.n_found - facts.n_at_first_token - facts.n_events
    distances = (
        "all at the same token index"
        if facts.n_same_index == facts.n_controls
        else f"{facts.n_same_index:,} at the same token index, the others up to "
        f"{plural(facts.largest_distance, 'token')} away"
    )
    without = facts.n_events - facts.n_controls
    return (
        f"{plural(facts.n_events, 'event')} of {plural(facts.n_event_problems, 'problem')}: the first strict trigger "
        f"of a completion, in {plural(facts.n_completions, 'completion')} without intervention of "
        f"{plural(facts.n_held_out, 'problem')} that the sweep does not use; {facts.n_found:,} hold one, "
        f"{facts.n_at_first_token:,} of them at the first token, which prefill predicts, and {left_out:,} more are "
        f"left out (at most {facts.n_wanted:,} are wanted, drawn evenly over problems by hash).",
        f"{plural(facts.n_controls, 'matched position')}, each in a completion of its own without any trigger, behind "
        f"the same token as its event; {distances}."
        + (f" For {without:,} events there was none left." if without else ""),
    )


def _records(frame: pd.DataFrame) -> list[_Row]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _names(rows: Iterable[_Row]) -> str:
    ordered = sorted(rows, key=lambda row: (row["component"], row["layer"]))
    return join_names(f"{row['component']} {row['layer']}" for row in ordered) or "none"


def _lies_above_zero(row: _Row) -> bool:
    low = _value(row, "low")
    return low is not None and low > 0


def _layer(layer: int) -> str:
    return "the embedding" if layer == EMBEDDING else f"layer {layer}"


def _above_zero(row: _Row) -> bool:
    low = _value(row, "difference_low")
    return low is not None and low > 0


def _figure(row: _Row, prefix: str) -> str:
    value = _value(row, f"{prefix}estimate")
    if value is None:
        return NOT_MEASURED
    return " ".join(filter(None, (_number(value, 2), _interval(row, prefix, 2))))


def _difference(row: _Row) -> str:
    value = _value(row, "difference")
    if value is None:
        return NOT_MEASURED
    return " ".join(filter(None, (_number(value, 2, signed=True), _interval(row, "difference_", 2, signed=True))))


def _with_interval(row: _Row, name: str = "estimate") -> str:
    return " ".join(filter(None, (_number(float(row[name]), 2, signed=True), _interval(row, "", 2, signed=True))))


def _interval(row: _Row, prefix: str, places: int, *, signed: bool = False) -> str:
    low, high = _value(row, f"{prefix}low"), _value(row, f"{prefix}high")
    if low is None or high is None:
        return ""
    return f"[{_number(low, places, signed=signed)}, {_number(high, places, signed=signed)}]"


def _value(row: _Row, name: str) -> float | None:
    value = row[name]
    return None if pd.isna(value) else float(value)


def _number(value: float | None, places: int, *, signed: bool = False) -> str:
    if value is None:
        return NOT_MEASURED
    rounded = round(float(value), places) or 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{places}f}".replace("-", "−")
