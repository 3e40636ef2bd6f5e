"""Reading a sampled continuation: whether the event comes again."""

import re
from dataclasses import dataclass

from backtracking_assets.analysis.triggers import find_events
from backtracking_assets.experiment_sections import Detection

_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class Reading:
    """What a continuation says."""

    again: bool
    """Its first words are a strict trigger: only white space and punctuation may stand before it."""
    within: bool
    """It holds a strict trigger anywhere."""
    settled: bool
    """Whether more text can change neither."""


def read_continuation(text: str, start: int, rules: Detection) -> Reading:
    """Read what follows a position in a text.

    A trigger is a whole word, so one at the very end counts, and is not settled: the word may go on.

    Args:
        text: some of the text before the position (what stands before a word decides whether it is whole), and the
            continuation.
        start: the character at which the continuation starts.
    """
    strict = [event for event in find_events(text, rules) if event.kind == "strict" and event.start >= start]
    if not strict:
        return Reading(again=False, within=False, settled=False)
    first = strict[0]
    again = _WORD.search(text, start, first.start) is None
    return Reading(again=again, within=True, settled=first.end < len(text))
