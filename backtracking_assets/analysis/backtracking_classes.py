"""The class of a completion and of each of its events: genuine, filler, silent, none, degenerate.

Revisions are found without looking at triggers (`revisions`, or exactly in an arithmetic chain); here the two meet.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from backtracking_assets.analysis.arithmetic_steps import Steps, changed_redos
from backtracking_assets.analysis.revision_cues import Cues, cues_of
from backtracking_assets.analysis.revisions import Reading, blinded, find_revisions, read, unquoted
from backtracking_assets.analysis.text_columns import TextColumn
from backtracking_assets.analysis.triggers import Event
from backtracking_assets.records import CompletionClass, EventClass

WINDOW = 420
"""Characters behind an event within which a revision counts as announced by it."""

_CONTEXT = 120
"""Characters on either side of an event that tell whether it belongs to the story."""

_QUOTED = re.compile(r"[\"“”][^\"“”\n]{1,300}[\"“”]|['‘](?<!\w['‘])[^'‘’\n]{1,200}['’](?!\w)")
_MARKS = re.compile("[\"“”'‘]")
_LEADS_IN = {"but", "oh", "no", "so", "hmm", "hm", "ok", "okay", "ah", "uh", "um", "well", "yes", "and", "or", "then"}
_VERB_BEHIND = re.compile(
    r"[ \t]+(?:for|until|till|times?|to|on|at|in|here|there|outside|lists?|about|[0-9]+"
    r"|an?[ \t]+(?:hour|day|week)\w*)\b",
    re.IGNORECASE,
)
_ASKS = re.compile(r"\b(?:how|what|which|who|did|does|do)\b[^.!?\n]{0,60}$", re.IGNORECASE)
_NO_OWN_MISTAKE = re.compile(r"\b(?:by|every|each|his|her|their|no such)[ \t]+$|['’]s[ \t]+$", re.IGNORECASE)


class Spanned(Protocol):
    """A changed step by where it stands in the text."""

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...


@dataclass(frozen=True)
class Classes:
    """The classes of one completion."""

    completion: CompletionClass
    events: tuple[EventClass, ...]
    """One for each event, in their order."""
    n_silent: int
    """Revisions that no event announces."""


def classify_text(text: str, events: Sequence[Event], *, degenerate: bool, cut_off: bool) -> Classes:
    """`classify_texts` of one text."""
    return classify_texts([text], [events], [degenerate], [cut_off])[0]


def classify_texts(
    texts: Sequence[str], events: Sequence[Sequence[Event]], degenerate: Sequence[bool], cut_off: Sequence[bool]
) -> list[Classes]:
    """Classes of running text, by the rules of `revisions` and of `not_a_trigger`.

    ``cut_off`` says that the text ended at the token cap: an event behind which it ends too early to tell is
    ``cut_off`` then. Takes time linear in the length of the texts.
    """
    blind = [blinded(text, own) if own else text for text, own in zip(texts, events, strict=True)]
    cues = cues_of(TextColumn([unquoted(text) for text in blind]))
    return [_classify_text(*row) for row in zip(texts, blind, events, cues, degenerate, cut_off, strict=True)]


def _classify_text(
    text: str, blind: str, events: Sequence[Event], cues: Cues | None, degenerate: bool, cut_off: bool
) -> Classes:
    reading = read(blind)
    windows = _windows(text, events, reading) if events else []
    quoted = _are_quoted(text, events)
    triggers = [not quote and not is_no_trigger(text, event) for event, quote in zip(events, quoted, strict=True)]
    return _classify(events, triggers, windows, find_revisions(blind, reading, cues), len(text), degenerate, cut_off)


def _windows(text: str, events: Sequence[Event], reading: Reading) -> list[int]:
    """Behind which character each event announces nothing any more."""
    stated = [claim.end for claim in reading.claims]
    windows: list[int] = []
    for number in reversed(range(len(events))):
        event = events[number]
        end = min(event.start + WINDOW, len(text))
        if number + 1 < len(events) and events[number + 1].start < end:
            place = bisect_left(stated, event.end)
            if place < len(stated) and stated[place] <= events[number + 1].start:
                end = events[number + 1].start
            else:  # nothing is stated between the two, so they announce the same
                end = min(end, windows[-1])
        windows.append(end)
    return windows[::-1]


def classify_chain(
    text: str, events: Sequence[Event], steps: Steps, question: str, *, degenerate: bool, cut_off: bool
) -> Classes:
    """Classes of an arithmetic chain, exact by its steps and the question (`arithmetic_steps.changed_redos`).

    An event announces what the first step behind it does. Detection reads chains by columns: this is the definition
    that `class_columns.chain_classes` must agree with, and tests compare the two.
    """
    ends = [step.end for step in steps.steps]
    windows = [ends[place] if (place := bisect_left(ends, event.end)) < len(ends) else len(text) for event in events]
    redos = changed_redos(steps, question)
    return _classify(events, [True] * len(events), windows, redos, len(text), degenerate, cut_off)


def is_no_trigger(text: str, event: Event) -> bool:
    """Whether the words of an event belong to the story: `wait 5 minutes`, `how many did she actually eat`."""
    line = max(event.start - _CONTEXT, 0)
    line = max(text.rfind("\n", line, event.start) + 1, line)
    before, behind = text[line : event.start], text[event.end : event.end + _CONTEXT]
    word = _word_before(before).casefold()
    match event.phrase.casefold():
        case "wait":
            return bool(word and word not in _LEADS_IN) or bool(_VERB_BEHIND.match(behind))
        case "hold on":
            return bool(word and word not in _LEADS_IN) or bool(re.match(r"[ \t]+to\b", behind))
        case "actually":
            return bool(word) and bool(_ASKS.search(before))
        case "mistake":
            return bool(_NO_OWN_MISTAKE.search(before))
    return False


def _word_before(text: str) -> str:
    """The letters at the end of a text that spaces follow there; empty where there are none."""
    end = len(text.rstrip(" \t"))
    begin = end
    if end < len(text):
        while begin and text[begin - 1].isalnum() and not text[begin - 1].isdecimal():
            begin -= 1
    return text[begin:end]


def _are_quoted(text: str, events: Sequence[Event]) -> list[bool]:
    """Whether each event stands within quotation marks."""
    spans: list[tuple[int, int]] = []
    end = 0
    for mark in _MARKS.finditer(text) if events else ():
        quoted = _QUOTED.match(text, mark.start()) if mark.start() >= end else None
        if quoted:
            end = quoted.end()
            spans.append(quoted.span())
    starts = [start for start, _ in spans]
    places = [bisect_right(starts, event.start) - 1 for event in events]
    return [place >= 0 and event.end <= spans[place][1] for event, place in zip(events, places, strict=True)]


def _classify(
    events: Sequence[Event],
    triggers: Sequence[bool],
    windows: Sequence[int],
    revisions: Sequence[Spanned],
    length: int,
    degenerate: bool,
    cut_off: bool,
) -> Classes:
    """Match events with revisions; each event announces what begins within its window and ends behind it."""
    ends = [revision.end for revision in revisions]
    announced: set[int] = set()
    classes: list[EventClass] = []
    for event, is_trigger, window in zip(events, triggers, windows, strict=True):
        if not is_trigger:
            classes.append("not_a_trigger")
            continue
        place = bisect_right(ends, event.start)
        own = place < len(revisions) and revisions[place].start < window
        if own:
            while place < len(revisions) and revisions[place].start < window:
                announced.add(place)
                place += 1
        classes.append("genuine" if own else "cut_off" if cut_off and window >= length else "filler")
    n_silent = len(revisions) - len(announced)
    return Classes(_completion_class(classes, n_silent, degenerate), tuple(classes), n_silent)


def _completion_class(events: Sequence[EventClass], n_silent: int, degenerate: bool) -> CompletionClass:
    """What was changed goes before what was only said; a completion that breaks down is neither."""
    if degenerate:
        return "degenerate"
    if "genuine" in events:
        return "genuine"
    if n_silent:
        return "silent"
    if "filler" in events:
        return "filler"
    return "cut_off" if "cut_off" in events else "none"
