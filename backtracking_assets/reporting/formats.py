"""Numbers and names as people read them, the same in HTML, in a terminal and in figures."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from backtracking_assets.measures import Measure

if TYPE_CHECKING:  # which needs pandas
    from backtracking_assets.reporting.measured import Comparison, Measurement

NOT_MEASURED = "–"


def format_number(value: float | None, measure: Measure, signed: bool = False) -> str:
    """`0.42`, or `51.3` for a measure that is no share; a dash for None. The minus sign is U+2212."""
    if value is None:
        return NOT_MEASURED
    places = 2 if measure.unit == "share" else 1
    # A value that rounds to nothing has no sign: -0.00 would look like a finding.
    rounded = round(value, places) or 0.0
    text = f"{rounded:{'+' if signed and rounded else ''}.{places}f}"
    return text.replace("-", "−")


def format_interval(low: float | None, high: float | None, measure: Measure, signed: bool = False) -> str:
    """`[0.37, 0.47]`; empty where either end is missing."""
    if low is None or high is None:
        return ""
    return f"[{format_number(low, measure, signed)}, {format_number(high, measure, signed)}]"


def format_measurement(value: "Measurement | None", measure: Measure) -> str:
    """`0.42 [0.37, 0.47]`; a dash where there is nothing."""
    if value is None or value.estimate is None:
        return NOT_MEASURED
    return " ".join(
        filter(None, (format_number(value.estimate, measure), format_interval(value.low, value.high, measure)))
    )


def format_difference(value: "Comparison | None", measure: Measure) -> str:
    """`−0.57 [−0.66, −0.49]`; a dash where there is nothing."""
    if value is None or value.difference is None:
        return NOT_MEASURED
    interval = format_interval(value.low, value.high, measure, signed=True)
    return " ".join(filter(None, (format_number(value.difference, measure, signed=True), interval)))


def format_p(p_value: float | None) -> str:
    """`0.012`, or `<0.001`; a dash for None."""
    if p_value is None:
        return NOT_MEASURED
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def equals_p(p_value: float | None) -> str:
    """`p = 0.012` or `p < 0.001`."""
    return f"p {'' if p_value is not None and p_value < 0.001 else '= '}{format_p(p_value)}".replace("<", "< ")


def format_components(components: Iterable[str]) -> str:
    """`attention 15, 17 · mlp 27` from `attention.15`, `attention.17`, `mlp.27`; `none` where there is none."""
    kinds: dict[str, list[str]] = {}
    for component in components:
        kind, _, layer = component.rpartition(".")
        kinds.setdefault(kind or "component", []).append(layer)
    return " · ".join(f"{kind} {', '.join(layers)}" for kind, layers in kinds.items()) or "none"


def format_time(moment: datetime | None) -> str:
    """`2026-01-31 09:05 UTC`; the zone as given, to the minute."""
    if moment is None:
        return "not known"
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".rstrip()


def plural(count: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def join_names(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    listed = list(names)
    return " and ".join(filter(None, (", ".join(listed[:-1]), *listed[-1:])))
