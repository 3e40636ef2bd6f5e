"""Finding trigger phrases such as "Wait" in a completion, and the token at which the first one starts."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from backtracking_assets.experiment_sections import Detection

_APOSTROPHES = "'’ʼ＇"


class Event(NamedTuple):
    """One trigger in a text. Strict events belong to the relaxed set as well."""

    phrase: str
    """The trigger as the experiment file writes it."""
    kind: Literal["strict", "relaxed"]
    start: int
    """First character."""
    end: int
    """Character after the last."""


def find_events(text: str, rules: Detection) -> list[Event]:
    """All triggers of a text in the order of their start, none overlapping another.

    Triggers match as whole words in any case, with any run of white space between their words and any form of
    apostrophe. Among overlapping triggers of one kind the leftmost wins, and of those that start together the longest.
    A strict trigger wins over every relaxed one that it overlaps, so that the strict events do not depend on which
    relaxed triggers are listed. Takes time linear in the length of the text.
    """
    return merged_events(_events(text, rules.strict, "strict"), _events(text, rules.relaxed, "relaxed"))


def merged_events(strict: list[Event], relaxed: list[Event]) -> list[Event]:
    """Events of both kinds in the order of their start, without the relaxed ones that overlap a strict one."""
    if not relaxed or not strict:
        return strict or relaxed
    starts = [event.start for event in strict]
    for event in relaxed:
        before = bisect_right(starts, event.start) - 1
        overlaps_before = before >= 0 and strict[before].end > event.start
        overlaps_after = before + 1 < len(starts) and starts[before + 1] < event.end
        if not overlaps_before and not overlaps_after:
            strict.append(event)
    return sorted(strict, key=lambda event: event.start)


def onset(events: Sequence[Event], rules: Detection) -> Event | None:
    """The event that counts as the completion's onset, by ``rules.priority``; None where there is no event.

    Detection finds onsets by columns: this is the definition that `event_columns.EventColumns.onsets` must agree with,
    and tests compare the two.
    """
    candidates = [event for event in events if event.kind == "strict"] if rules.priority == "strict" else []
    return min(candidates or events, key=lambda event: event.start, default=None)


def token_at(token_starts: Sequence[int], character: int) -> int:
    """Index of the token whose text holds a character.

    ``token_starts`` rises, and repeats where a token adds no text; then the last of the equal ones is meant, which is
    the one that has the text.

    Raises:
        ValueError: no token starts at or before the character.
    """
    index = bisect_right(token_starts, character) - 1
    if index < 0:
        raise ValueError(f"no token starts at or before character {character}")
    return index


@lru_cache(maxsize=64)
def trigger_pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern that matches any of the phrases by the rules of `find_events`, each in a group of its own."""
    alternatives = "|".join(f"({_phrase_pattern(phrase)})" for phrase in longest_first(phrases))
    return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE)


@lru_cache(maxsize=64)
def longest_first(phrases: tuple[str, ...]) -> list[str]:
    """The order of a pattern's groups: a regular expression takes the first alternative that matches."""
    return sorted(phrases, key=len, reverse=True)


def _phrase_pattern(phrase: str) -> str:
    words = (re.sub(f"[{_APOSTROPHES}]", f"[{_APOSTROPHES}]", re.escape(word)) for word in phrase.split())
    return r"\s+".join(words)


def _events(text: str, phrases: tuple[str, ...], kind: Literal["strict", "relaxed"]) -> list[Event]:
    if not phrases:
        return []
    names = longest_first(phrases)
    return [event_of(match, names, kind) for match in trigger_pattern(phrases).finditer(text)]


def event_of(match: re.Match[str], names: Sequence[str], kind: Literal["strict", "relaxed"]) -> Event:
    """The event that a match of `trigger_pattern` is; ``names`` are its phrases as `longest_first` gives them."""
    return Event(names[(match.lastindex or 1) - 1], kind, *match.span())
