"""Completions shown harmlessly: escaped, cut to a bearable length, nothing hidden in them, triggers marked."""

import unicodedata
from collections.abc import Sequence

from markupsafe import Markup, escape

from backtracking_assets.reporting.contents import Event

MAX_CHARACTERS = 6_000
"""Characters of one completion that a page shows; the middle of a longer one is left out."""


def is_hidden(character: str) -> bool:
    """Whether a character shows nothing of itself or moves others: controls, bidirectional overrides, zero-width
    characters, lone surrogates, private use and unassigned code points. Newline, tab and spaces are not hidden."""
    return not (character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs")


def visible(text: str) -> str:
    """The text with every hidden character written as its code point, such as `⟨U+202E⟩`."""
    if text.isprintable():
        return text
    return "".join(_code_point(character) if is_hidden(character) else character for character in text)


def cut_middle(text: str, limit: int) -> tuple[str, int, str]:
    """Start and end of a text, `limit` characters in all, and how many were left out between them.

    Raises:
        ValueError: the limit is below 2.
    """
    if limit < 2:
        raise ValueError(f"A text cannot be cut to {limit} characters; the least is 2.")
    if len(text) <= limit:
        return text, 0, ""
    head = (limit + 1) // 2
    tail = limit - head
    return text[:head], len(text) - limit, text[-tail:]


def shorten(text: str, limit: int = 2_000) -> str:
    """The text with its middle left out where it is longer than `limit`, as plain text."""
    head, left_out, tail = cut_middle(text, limit)
    return f"{head} […{left_out:,} characters left out…] {tail}" if left_out else head


def marked_text(text: str, events: Sequence[Event], limit: int = MAX_CHARACTERS) -> Markup:
    """A completion as HTML: escaped, its middle left out beyond `limit` characters, triggers in `<mark>` by kind.

    Events that overlap are shown one after another, the earlier and then the strict one first; what lies outside the
    text is not shown.
    """
    head, left_out, tail = cut_middle(text, limit)
    if not left_out:
        return _marked_span(text, 0, len(text), events)
    resume = len(text) - len(tail)
    hidden_events = sum(event.start >= len(head) and event.end <= resume for event in events)
    note = f"{left_out:,} characters left out" + (
        f", {hidden_events:,} marked triggers among them" * bool(hidden_events)
    )
    return Markup('{}<span class="cut">[… {} …]</span>{}').format(
        _marked_span(text, 0, len(head), events), note, _marked_span(text, resume, len(text), events)
    )


def _marked_span(text: str, start: int, end: int, events: Sequence[Event]) -> Markup:
    parts: list[Markup] = []
    position = start
    for event in sorted(events, key=lambda e: (e.start, e.kind != "strict", e.end)):
        first, last = max(event.start, position), min(event.end, end)
        if first >= last:
            continue
        parts.append(_shown(text[position:first]))
        meaning = Markup(' title="{}"').format(event.event_class.replace("_", " ")) if event.event_class else ""
        parts.append(Markup('<mark class="{}"{}>{}</mark>').format(event.kind, meaning, _shown(text[first:last])))
        position = last
    parts.append(_shown(text[position:end]))
    return Markup("").join(parts)


def _shown(text: str) -> Markup:
    """Escaped text whose hidden characters stand as code points in an element of their own."""
    if text.isprintable():
        return escape(text)
    return Markup("").join(
        Markup('<span class="hidden-character">{}</span>').format(_code_point(character))
        if is_hidden(character)
        else escape(character)
        for character in text
    )


def _code_point(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩"
