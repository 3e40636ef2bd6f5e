"""Changed steps of a chain of thought in running text, found by rules that see no triggers.

A revision is a later statement that gives another value to the same expression or named quantity, that takes an earlier
value back in words, or that replaces the approach. Whoever calls this blanks the triggers first (`blinded`), so that
what is found cannot depend on them. The rules are plain and miss changes that only the meaning shows;
`data/golden/scores.json` says how much.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal

from backtracking_assets.analysis.revision_cues import Cues
from backtracking_assets.analysis.statements import Claim, Tokens, find_claims, numbers_of, tokens_of
from backtracking_assets.analysis.triggers import Event

REACH = 260
"""Characters behind a word of doubt within which another value takes the earlier one back."""
_NEAR = 128
"""Characters before a place that are searched first for the sentence's start."""
CONSEQUENCE = 300
"""Characters behind a revision within which another value of a named quantity is its consequence."""


def _starting(*words: str, behind: str = r"\w", besides: tuple[str, ...] = ()) -> str:
    """A pattern of words where they begin, each by its first letter, which is what a search can skip to.

    ``behind`` is what may not stand right before; ``besides`` are words that may not stand there either.
    """
    alternatives: list[str] = []
    for letter in dict.fromkeys(word[0] for word in words):
        rest = "|".join(word[1:] for word in words if word[0] == letter)
        refused = "".join(rf"(?<!\b{word} {letter})" for word in besides)
        alternatives.append(f"{letter}(?<!{behind}{letter}){refused}(?:{rest})")
    return f"(?:{'|'.join(alternatives)})"


# These are searched in lower case; a pattern that ignores case cannot be skipped through.
_DOUBT = re.compile(
    _starting("that", "this", "it", "something", "which", besides=("is", "was"))
    + r"(?:['’]s|\s{1,9}is|\s{1,9}was|\s{1,9}would\s{1,9}be)?\s{1,9}"
    r"(?:not\s{1,9}(?:quite\s{1,9})?(?:right|correct)|wrong|incorrect|off|(?:way\s{1,9})?too\s{1,9}(?:much|many|few|small|large|big))\b|"
    + _starting("that", "this", "it")
    + r"\s{1,9}(?:isn['’]t\s{1,9}(?:right|correct)|(?:can['’]t|cannot)\s{1,9}be(?:\s{1,9}right)?|"
    r"does(?:n['’]t|\s{1,9}not)\s{1,9}"
    r"(?:make\s{1,9}sense|look\s{1,9}right|add\s{1,9}up))\b|"
    + _starting(r"something['’]s\s{1,9}(?:off|wrong)\b")
    + r"|[.!…\n—,]\s{0,9}no\s{0,9}[,.]|"
    + _starting(r"no\s{0,9}[,.]", behind=r"[\s\S]")
    + "|"
    + _starting(r"i\s{1,9}mean\b", r"swap\s{1,9}that\b")
    + "|"
    + _starting(
        r"i\s{1,9}(?:multiplied|added|subtracted|divided|used|counted|took)\b[^.\n]{0,40}\b(?:where|but|only|wrong|twice)\b"
    )
    + "|"
    + _starting("it", "that", "this", "which", "answer", "total")
    + r"\s{1,9}should\s{1,9}(?:be|have\s{1,9}been)\b(?!\s{1,9}(?:about|around|roughly|close))"
    r"|(?:[.!?\n]\s{0,9})(?:rather|sorry)\b|,\s{0,9}sorry\b|"
    + _starting(r"the\s{1,9}other\s{1,9}way\s{1,9}around\b", r"let\s{1,9}me\s{1,9}re-?read\b")
)
"""Takes an earlier value back if a statement with another value follows."""
_RETRACTION = re.compile(
    _starting(
        r"oops\b",
        r"scratch\s{1,9}that\b",
        r"correction\b",
        r"my\s{1,9}bad\b",
        r"on\s{1,9}second\s{1,9}thought\b",
        r"i\s{1,9}(?:misread|miscounted|miscalculated|forgot|missed|overlooked|misunderstood|mixed\s{1,9}up|messed\s{1,9}up)\b",
    )
)
"""Takes it back if any other number follows."""
_APPROACH = re.compile(
    _starting("better", "easier", "quicker", "simpler", "faster")
    + r"\s{1,9}(?:approach|way|method|idea)\b|"
    + _starting("different", "other", "another")
    + r"\s{1,9}(?:approach|way|method)\b|"
    + _starting(
        *(rf"{word}\s{{1,9}}to\b" for word in ("easier", "better", "quicker", "simpler", "faster")),
        r"start\s{1,9}over\b",
        r"from\s{1,9}scratch\b",
        r"instead\b(?!\s{1,9}of)",
        r"scratch\s{1,9}that\b",
    )
)
_PLANS = re.compile(
    r"\b(?:let['’]s|let\s{1,9}me|let|i['’]ll|i\s{1,9}(?:can|should|could)|we\s{1,9}(?:can|should|could)|easier|better|set\s{1,9}up|try|use)\b",
    re.IGNORECASE,
)
_VERIFIES = re.compile(r"\b(?:verif\w*|check\w*|confirm\w*|double|same|sure)\b", re.IGNORECASE)
_CONFIRMS = re.compile(
    _starting(
        "yes",
        r"that['’]s\s{1,9}(?:right|correct|fine|it)",
        r"is\s{1,9}(?:right|correct|fine)",
        r"are\s{1,9}(?:right|correct|fine)",
        r"it['’]s\s{1,9}(?:right|correct|fine)",
        r"it\s{1,9}(?:works|matches)",
        r"that\s{1,9}(?:works|matches)",
        r"checks\s{1,9}out",
        "matches",
        r"makes\s{1,9}sense",
        r"the\s{1,9}same",
        "stays",
        r"no\s{1,9}trick",
        "agree",
    )
    + r"\b"
)
_NOT_BUT = re.compile(r"not(?<!\wnot)\s{1,9}[^.;\n]{0,40}?[0-9][^.;\n]{0,40}?\bbut\s{1,9}[^.;\n0-9]{0,20}[0-9]")
_INSTEAD = re.compile(r"[0-9](?:\s{1,9}[^\W\d_]+)?\s{1,9}instead\b(?!\s{1,9}of)")
_REPLACED = re.compile(
    r"(?:,\s{0,9}(?:and\s{1,9})?not\b|"
    + _starting(r"instead\s{1,9}of\b", r"rather\s{1,9}than\b", r"not\b")
    + r")\s{0,9}(?:the\s{1,9}|just\s{1,9}|a\s{1,9})?"
)
_QUOTED = re.compile(r"[\"“”][^\"“”\n]{1,300}[\"“”]")
_QUOTES = re.compile(r"[\"“”]")
_SENTENCE_END = re.compile(r"[.!?…](?=\s)|\n")


Ratio = tuple[int, int]
"""A value as numerator and denominator, whose hash is quicker than a Fraction's."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A changed step: from the words that take the earlier one back, if there are any, to the new one's end."""

    kind: Literal["value", "correction", "approach"]
    start: int
    end: int


def blinded(text: str, events: Sequence[Event]) -> str:
    """The text with every trigger replaced by as many spaces, so that positions stay."""
    parts: list[str] = []
    position = 0
    for event in events:
        parts += [text[position : event.start], " " * (event.end - event.start)]
        position = event.end
    return "".join([*parts, text[position:]])


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of a text in order."""

    values: list[Ratio]
    starts: list[int]
    ends: list[int]
    first_seen: dict[Ratio, int]
    """Where each value starts for the first time."""


@dataclass(frozen=True)
class Reading:
    """The numbers and the statements of a text."""

    tokens: Tokens
    claims: list[Claim]

    @cached_property
    def numbers(self) -> Numbers:
        places, values = numbers_of(self.tokens)
        starts = [self.tokens.starts[place] for place in places]
        first_seen: dict[Ratio, int] = {}
        for value, start in zip(values, starts, strict=True):
            first_seen.setdefault(value, start)
        return Numbers(values, starts, [self.tokens.ends[place] for place in places], first_seen)


def read(text: str) -> Reading:
    """What a text states; takes time linear in its length."""
    tokens = tokens_of(text)
    return Reading(tokens, find_claims(tokens))


def unquoted(text: str) -> str:
    """The text with every quotation replaced by as many spaces."""
    if not _QUOTES.search(text):
        return text
    return _QUOTED.sub(lambda match: " " * len(match.group()), text)


def find_revisions(text: str, reading: Reading | None = None, cues: Cues | None = None) -> list[Revision]:
    """The revisions of a text whose triggers are blanked, in the order of their start.

    Takes time linear in the length of the text.

    Args:
        reading: what `read` gives for this text, where the caller has it.
        cues: what `cues_of` gives for the text as `unquoted` gives it, where the caller has it.
    """
    plain = unquoted(text)
    if reading is None or plain is not text:
        reading = read(plain)
    found = _changed_values(reading.claims) if reading.claims else []
    if cues is None or not cues.keys() <= {"confirms"}:
        # `İ` alone has two characters in lower case; positions must stay.
        plain = plain.replace("İ", "i").lower()
        found += _changed_approaches(plain, cues)
        found += _taken_back(plain, reading, cues)
        found += _replaced(plain, reading, cues)
    return _merged(found)


def _matches(pattern: re.Pattern[str], text: str, cues: Cues | None, name: str) -> Iterator[re.Match[str]]:
    """What `finditer` gives, where the cues say at which characters a match may begin."""
    if cues is None:
        yield from pattern.finditer(text)
        return
    end = 0
    for place in cues.get(name, ()):
        match = pattern.match(text, place) if place >= end else None
        if match:
            end = match.end()
            yield match


def _same(first: Claim, second: Claim) -> bool:
    """Whether two values are equal, or one is the other rounded."""
    if first.value is second.value or first.value == second.value:
        return True
    decimals = min(first.decimals, second.decimals)
    if first.decimals == second.decimals or decimals > 6:
        return False
    unit = Fraction(1, 10**decimals)
    return abs(first.value - second.value) <= unit / 2 and max(first.decimals, second.decimals) > 0


def _changed_values(claims: Sequence[Claim]) -> list[Revision]:
    """Claims that give another value to what an earlier claim gave one."""
    latest: dict[tuple[bool, tuple[str, ...]], Claim] = {}
    found: list[Revision] = []
    renewed: dict[Fraction, int] = {}
    for claim in claims:
        if not claim.subject:
            continue
        key = (claim.is_expression, claim.subject)
        before = latest.get(key)
        latest[key] = claim
        if before is None or _same(before, claim):
            continue
        # The new total that follows from a new product is the same change.
        follows = not claim.is_expression and bool(found) and claim.start - found[-1].end <= CONSEQUENCE
        if follows or (not claim.is_expression and claim.value in renewed):
            continue
        renewed[claim.value] = claim.end
        found.append(Revision("value", claim.start, claim.end))
    return [*found, *_exchanged_operations(claims)]


def _exchanged_operations(claims: Sequence[Claim]) -> list[Revision]:
    """Products and quotients of the same numbers in another arrangement: `96 × 12 = 1152`, later `96 / 12 = 8`."""
    seen: dict[tuple[str, ...], Claim] = {}
    found: list[Revision] = []
    for claim in claims:
        if not claim.is_expression or "+" in claim.subject or "-" in claim.subject:
            continue
        if not {"*", "/"} >= {part for part in claim.subject if not part[0].isdigit()}:
            continue
        before = seen.setdefault(tuple(sorted(part for part in claim.subject if part[0].isdigit())), claim)
        if before.subject != claim.subject and not _same(before, claim):
            found.append(Revision("value", claim.start, claim.end))
    return found


def _taken_back(text: str, reading: Reading, cues: Cues | None) -> list[Revision]:
    """Words of doubt that another value follows before anything is confirmed."""
    doubts = [match.span() for match in _matches(_DOUBT, text, cues, "doubt")]
    retractions = [match.span() for match in _matches(_RETRACTION, text, cues, "retraction")]
    if not (doubts or retractions) or not reading.numbers.values:
        return []
    # What stands before the first number takes nothing back.
    numbers, first_seen = reading.numbers, reading.numbers.first_seen
    doubts = [span for span in doubts if span[0] > numbers.starts[0]]
    retractions = [span for span in retractions if span[0] > numbers.starts[0]]
    if not doubts and not retractions:
        return []
    claims, starts = reading.claims, [claim.start for claim in reading.claims]
    confirmed = [match.start() for match in _matches(_CONFIRMS, text, cues, "confirms")]
    found: list[Revision] = []
    for (begin, behind), retracts in [*((span, False) for span in doubts), *((span, True) for span in retractions)]:
        end = behind + REACH
        place = bisect_left(confirmed, behind)
        if place < len(confirmed):
            end = min(end, confirmed[place])
        number = bisect_left(starts, begin)
        while number < len(claims) and starts[number] < end:
            if first_seen.get(claims[number].value.as_integer_ratio(), -1) >= begin:
                found.append(Revision("correction", begin, claims[number].end))
                break
            number += 1
        else:
            # `sorry, 44` and `I mean 4 miles` give the bare number.
            reach = end if retracts else min(end, behind + 12)
            at = bisect_left(numbers.starts, behind)
            while at < len(numbers.starts) and numbers.starts[at] < reach:
                if first_seen[numbers.values[at]] >= begin:
                    found.append(Revision("correction", begin, numbers.ends[at]))
                    break
                at += 1
    return found


def _replaced(text: str, reading: Reading, cues: Cues | None) -> list[Revision]:
    """`100 pages, not 140` and `use 11 instead of 15`, where the number that is refused stood before."""
    if cues is not None and not cues.keys() & {"replaced", "not but", "instead"}:
        return []
    numbers = reading.numbers
    if not numbers.values:
        return []
    found: list[Revision] = []
    sentences = _Sentences(text)
    for match in _matches(_REPLACED, text, cues, "replaced"):
        at = bisect_left(numbers.starts, match.end())
        if at >= len(numbers.starts) or numbers.starts[at] != match.end():
            continue
        sentence = sentences.start_at(match.start())
        if numbers.first_seen[numbers.values[at]] < sentence:
            found.append(Revision("correction", max(sentence, match.start() - REACH), numbers.ends[at]))
    found += [Revision("correction", match.start(), match.end()) for match in _matches(_NOT_BUT, text, cues, "not but")]
    if cues is None or "instead" in cues:
        for match in _INSTEAD.finditer(text):
            if numbers.starts[0] < match.start():
                found.append(Revision("correction", match.start(), match.end()))
    return found


class _Sentences:
    """Where sentences start. Asked for rising places, it reads each part of the text a few times at most."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place, self.start = 0, 0

    def start_at(self, place: int) -> int:
        """Behind the last end of a sentence up to a place; 0 where there is none."""
        reach = _NEAR
        while True:
            begin = max(self.place, place - reach)
            ends = [match.end() for match in _SENTENCE_END.finditer(self.text, begin, place + 1)]
            if ends and ends[-1] > place:  # a line break at the place itself
                ends.pop()
            if ends or begin == self.place:
                self.place, self.start = place, ends[-1] if ends else self.start
                return self.start
            reach *= 4


def _changed_approaches(text: str, cues: Cues | None) -> list[Revision]:
    """Sentences that plan something else than before, and not in order to check."""
    found: list[Revision] = []
    sentences = _Sentences(text)
    for match in _matches(_APPROACH, text, cues, "approach"):
        begin = sentences.start_at(match.start())
        behind = _SENTENCE_END.search(text, match.start(), match.end() + REACH + 2)
        end = behind.end() if behind else len(text)
        # A page without a sentence's end must not be read anew for each of its words.
        sentence = text[max(begin, match.start() - REACH) : min(end, match.end() + REACH)]
        if begin > 0 and _PLANS.search(sentence) and not _VERIFIES.search(sentence):
            found.append(Revision("approach", max(begin, match.start() - REACH), match.end()))
    return found


def _merged(found: list[Revision]) -> list[Revision]:
    """Revisions that overlap are one: words of doubt and the value behind them."""
    merged: list[Revision] = []
    for revision in sorted(found, key=lambda r: (r.start, r.end)):
        if merged and revision.start < merged[-1].end:
            last = merged[-1]
            merged[-1] = Revision(last.kind, last.start, max(last.end, revision.end))
        else:
            merged.append(revision)
    return merged
