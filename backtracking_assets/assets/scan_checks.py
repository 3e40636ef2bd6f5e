"""Checks of phase 1's scan: what must hold before anything is stored, and what deserves a warning."""

import pyarrow as pa
import pyarrow.compute as pc

from backtracking_assets.analysis.continuation_positions import Chosen
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.scan_plan import Scan

_DRAWN = (
    "Without intervention, the baseline's own noise draws the baseline's tokens: the positions are where they are "
    "taken to be."
)
_ENOUGH = "As many events as the experiment file asks for, each with a matched position."

LENS_CHECKS = {
    "values_vary": "Values are finite and differ between layers and events.",
    "last_layer_is_the_model": "After the last layer, the lens gives the model's own logits.",
    "drawn_as_generated": _DRAWN,
    "enough_positions": _ENOUGH,
}
SCAN_CHECKS = {
    "values_vary": "Values are finite, differ between events, and change with some component.",
    "each_row_changed_once": "Each row of the scan was changed by its own component, once.",
    "unscaled_row_is_the_model": "The row that changes nothing gives the logits of a decode step without hooks.",
    "drawn_as_generated": _DRAWN,
    "enough_positions": _ENOUGH,
}
SELECTION_CHECKS = {
    "scores_vary": "The components' scores differ.",
    "selected_above_zero": "The intervals of the selected components' scores lie above 0.",
    "selection_is_stable": "Each selected component is selected in most resamples of problems.",
}
"""Names and meanings of the checks. All but `enough_positions` and the last two fail the run before it stores."""

_STABLE = 0.5
_LEAST_DRAWN_ALIKE = 0.9
"""Other batches give other last bits, so that a draw that was close may differ; at a wrong position most do."""


def lens_checks(positions: pa.Table, chosen: Chosen, settings: Scan) -> list[CheckOutcome]:
    """Checks of rows of `LENS_POSITIONS` that `refuse_worthless_lens` lets pass."""
    events = positions.filter(pc.field("kind") == "event")["onset_log_probability"].to_pylist()
    return [
        CheckOutcome(
            "values_vary",
            min(events) < max(events),
            "error",
            f"The onset token's log-probability lies between {min(events):.3g} and {max(events):.3g} over layers and "
            "events.",
        ),
        _within_rounding("last_layer_is_the_model", positions, "The last layer's lens", "the model's logits"),
        _drawn(positions),
        _enough(chosen, settings),
    ]


def scan_checks(positions: pa.Table, effects: pa.Table, chosen: Chosen, settings: Scan) -> list[CheckOutcome]:
    """Checks of rows of `SCAN_POSITIONS` and `COMPONENT_EFFECTS` that `refuse_worthless_scan` lets pass."""
    before = positions.filter(pc.field("kind") == "event")["onset_log_probability"].to_pylist()
    changes = effects["onset_log_probability"].to_pylist()
    other = sum(firings != 1 for firings in effects["n_firings"].to_pylist())
    return [
        CheckOutcome(
            "values_vary",
            min(changes) < max(changes),
            "error",
            f"The onset token's log-probability lies between {min(before):.3g} and {max(before):.3g} at {len(before)} "
            f"events, and changes by {min(changes):.3g} to {max(changes):.3g}.",
        ),
        CheckOutcome(
            "each_row_changed_once",
            other == 0,
            "error",
            f"{other} of {effects.num_rows:,} rows were changed another number of times than once.",
        ),
        _within_rounding("unscaled_row_is_the_model", positions, "The row that changes nothing", "a plain decode step"),
        _drawn(positions),
        _enough(chosen, settings),
    ]


def selection_checks(selection: pa.Table) -> list[CheckOutcome]:
    """Checks of rows of `SELECTED_COMPONENTS`."""
    scores = selection["score"].to_pylist()
    selected = selection.filter(pc.field("selected")).to_pylist()
    above = [row for row in selected if row["low"] is not None and row["low"] > 0]
    seldom = [row for row in selected if row["selected_share"] < _STABLE]
    named = ", ".join(f"{row['component']} {row['layer']} ({row['selected_share']:.0%})" for row in seldom)
    return [
        CheckOutcome(
            "scores_vary",
            min(scores) < max(scores),
            "error",
            f"Scores lie between {min(scores):.3g} and {max(scores):.3g} nats.",
        ),
        CheckOutcome(
            "selected_above_zero",
            len(above) == len(selected),
            "warning",
            f"{len(above)} of {len(selected)} selected components have an interval above 0; the others fill up the "
            "number that scan.top asks for.",
        ),
        CheckOutcome(
            "selection_is_stable",
            not seldom,
            "warning",
            f"Selected in less than {_STABLE:.0%} of the resamples: {named or 'none'}.",
        ),
    ]


def _within_rounding(name: str, positions: pa.Table, what: str, of: str) -> CheckOutcome:
    """Whether `largest_deviation` stays within `tolerance` at every position."""
    pairs = list(zip(positions["largest_deviation"].to_pylist(), positions["tolerance"].to_pylist(), strict=True))
    beyond = sum(deviation > tolerance for deviation, tolerance in pairs)
    worst, allowed = max(pairs, key=lambda pair: pair[0] / pair[1])
    return CheckOutcome(
        name,
        beyond == 0,
        "error",
        f"{what} is at most {worst:.2g} away from {of}, where {allowed:.2g} is put down to rounding; {beyond} of "
        f"{len(pairs)} rows are beyond.",
    )


def _drawn(positions: pa.Table) -> CheckOutcome:
    keys = positions.select(["problem_id", "sample_id", "same_draw"])
    alike = keys.group_by(keys.column_names).aggregate([])["same_draw"].to_pylist()
    return CheckOutcome(
        "drawn_as_generated",
        sum(alike) >= _LEAST_DRAWN_ALIKE * len(alike),
        "error",
        f"At {sum(alike)} of {len(alike)} positions the baseline's noise draws the baseline's token; an error stands "
        f"below {_LEAST_DRAWN_ALIKE:.0%}.",
    )


def _enough(chosen: Chosen, settings: Scan) -> CheckOutcome:
    events, controls = len(chosen.of("event")), len(chosen.of("control"))
    return CheckOutcome(
        "enough_positions",
        events == settings.events and controls == events,
        "warning",
        f"{events} of {settings.events} events that were asked for, {controls} of them with a matched position.",
    )
