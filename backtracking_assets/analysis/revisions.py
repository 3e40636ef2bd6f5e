"""Changed steps of a chain of thought in running text, found by rules that see no triggers.

A revision is a later statement that gives another value to the same expression or named quantity, that takes an earlier
value back in words, or that replaces the approach. Whoever calls this blanks the triggers first (`blinded`), so that
what is found cannot depend on them. The rules are plain and miss changes that only the meaning shows;
`data/golden/scores.json` says how much.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from backtracking_assets.analysis.statements import Claim, Token, find_claims, tokens_of, value_of
from backtracking_assets.analysis.triggers import Event

REACH = 260
"""Characters behind a word of doubt within which another value takes the earlier one back."""
CONSEQUENCE = 300
"""Characters behind a revision within which another value of a named quantity is its consequence."""

_DOUBT = re.compile(
    r"(?<!\bis )(?<!\bwas )\b(?:that|this|it|something|which)"
    r"(?:['’]s|\s{1,9}is|\s{1,9}was|\s{1,9}would\s{1,9}be)?\s{1,9}"
    r"(?:not\s{1,9}(?:quite\s{1,9})?(?:right|correct)|wrong|incorrect|off|(?:way\s{1,9})?too\s{1,9}(?:much|many|few|small|large|big))\b"
    r"|\b(?:that|this|it)\s{1,9}(?:isn['’]t\s{1,9}(?:right|correct)|(?:can['’]t|cannot)\s{1,9}be(?:\s{1,9}right)?|does(?:n['’]t|\s{1,9}not)\s{1,9}"
    r"(?:make\s{1,9}sense|look\s{1,9}right|add\s{1,9}up))\b"
    r"|\bsomething['’]s\s{1,9}(?:off|wrong)\b"
    r"|(?:^|[.!…\n—,]\s{0,9})no\s{0,9}[,.]"
    r"|\b(?:i\s{1,9}mean|swap\s{1,9}that)\b"
    r"|\bi\s{1,9}(?:multiplied|added|subtracted|divided|used|counted|took)\b[^.\n]{0,40}\b(?:where|but|only|wrong|twice)\b"
    r"|\b(?:it|that|this|which|answer|total)\s{1,9}should\s{1,9}(?:be|have\s{1,9}been)\b(?!\s{1,9}(?:about|around|roughly|close))"
    r"|(?:[.!?\n]\s{0,9})(?:rather|sorry)\b|,\s{0,9}sorry\b"
    r"|\bthe\s{1,9}other\s{1,9}way\s{1,9}around\b|\blet\s{1,9}me\s{1,9}re-?read\b",
    re.IGNORECASE,
)
"""Takes an earlier value back if a statement with another value follows."""
_RETRACTION = re.compile(
    r"\b(?:oops|scratch\s{1,9}that|correction|my\s{1,9}bad|on\s{1,9}second\s{1,9}thought)\b"
    r"|\bi\s{1,9}(?:misread|miscounted|miscalculated|forgot|missed|overlooked|misunderstood|mixed\s{1,9}up|messed\s{1,9}up)\b",
    re.IGNORECASE,
)
"""Takes it back if any other number follows."""
_APPROACH = re.compile(
    r"\b(?:(?:better|easier|quicker|simpler|faster)\s{1,9}(?:approach|way|method|idea)\b"
    r"|(?:different|other|another)\s{1,9}(?:approach|way|method)\b"
    r"|(?:easier|better|quicker|simpler|faster)\s{1,9}to\b|start\s{1,9}over\b|from\s{1,9}scratch\b"
    r"|instead\b(?!\s{1,9}of)|scratch\s{1,9}that\b)",
    re.IGNORECASE,
)
_PLANS = re.compile(
    r"\b(?:let['’]s|let\s{1,9}me|let|i['’]ll|i\s{1,9}(?:can|should|could)|we\s{1,9}(?:can|should|could)|easier|better|set\s{1,9}up|try|use)\b",
    re.IGNORECASE,
)
_VERIFIES = re.compile(r"\b(?:verif\w*|check\w*|confirm\w*|double|same|sure)\b", re.IGNORECASE)
_CONFIRMS = re.compile(
    r"\b(?:yes|that['’]s\s{1,9}(?:right|correct|fine|it)|(?:is|are|it['’]s)\s{1,9}(?:right|correct|fine)|it\s{1,9}(?:works|matches)"
    r"|that\s{1,9}(?:works|matches)|checks\s{1,9}out|matches|makes\s{1,9}sense|the\s{1,9}same|stays|no\s{1,9}trick|agree)\b",
    re.IGNORECASE,
)
_NOT_BUT = re.compile(r"\bnot\s{1,9}[^.;\n]{0,40}?[0-9][^.;\n]{0,40}?\bbut\s{1,9}[^.;\n0-9]{0,20}[0-9]", re.IGNORECASE)
_INSTEAD = re.compile(r"[0-9](?:\s{1,9}[^\W\d_]+)?\s{1,9}instead\b(?!\s{1,9}of)", re.IGNORECASE)
_REPLACED = re.compile(
    r"(?:,\s{0,9}(?:and\s{1,9})?not\b|\binstead\s{1,9}of\b|\brather\s{1,9}than\b|\bnot\b)\s{0,9}(?:the\s{1,9}|just\s{1,9}|a\s{1,9})?",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"“”][^\"“”\n]{1,300}[\"“”]")
_SENTENCE_END = re.compile(r"[.!?…](?=\s)|\n")


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


def find_revisions(text: str) -> list[Revision]:
    """The revisions of a text whose triggers are blanked, in the order of their start.

    Takes time linear in the length of the text.
    """
    text = _QUOTED.sub(lambda match: " " * len(match.group()), text)
    tokens = tokens_of(text)
    claims = find_claims(tokens)
    numbers = [(token, value) for token in tokens if (value := value_of(token)) is not None]
    found = [*_changed_values(claims), *_taken_back(text, claims, numbers), *_replaced(text, numbers)]
    found += _changed_approaches(text, numbers)
    return _merged(found)


def _same(first: Claim, second: Claim) -> bool:
    """Whether two values are equal, or one is the other rounded."""
    if first.value == second.value:
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
        if not claim.is_expression or not {"*", "/"} >= {part for part in claim.subject if not part[0].isdigit()}:
            continue
        before = seen.setdefault(tuple(sorted(part for part in claim.subject if part[0].isdigit())), claim)
        if before.subject != claim.subject and not _same(before, claim):
            found.append(Revision("value", claim.start, claim.end))
    return found


_Numbers = Sequence[tuple[Token, Fraction]]


def _taken_back(text: str, claims: Sequence[Claim], numbers: _Numbers) -> list[Revision]:
    """Words of doubt that another value follows before anything is confirmed."""
    first_seen: dict[Fraction, int] = {}
    for token, value in numbers:
        first_seen.setdefault(value, token.start)
    starts = [claim.start for claim in claims]
    any_number = [token.start for token, _ in numbers]
    confirmed = [match.start() for match in _CONFIRMS.finditer(text)]
    found: list[Revision] = []
    doubts = [(match, False) for match in _DOUBT.finditer(text)]
    doubts += [(match, True) for match in _RETRACTION.finditer(text)]
    for doubt, retracts in doubts:
        if bisect_left(any_number, doubt.start()) == 0:
            continue  # nothing was stated before that could be taken back
        end = doubt.end() + REACH
        place = bisect_left(confirmed, doubt.end())
        if place < len(confirmed):
            end = min(end, confirmed[place])
        number = bisect_left(starts, doubt.start())
        while number < len(claims) and claims[number].start < end:
            if first_seen.get(claims[number].value, -1) >= doubt.start():
                found.append(Revision("correction", doubt.start(), claims[number].end))
                break
            number += 1
        else:
            # `sorry, 44` and `I mean 4 miles` give the bare number.
            reach = end if retracts else min(end, doubt.end() + 12)
            at = bisect_left(any_number, doubt.end())
            while at < len(numbers) and any_number[at] < reach:
                if first_seen[numbers[at][1]] >= doubt.start():
                    found.append(Revision("correction", doubt.start(), numbers[at][0].end))
                    break
                at += 1
    return found


def _replaced(text: str, numbers: _Numbers) -> list[Revision]:
    """`100 pages, not 140` and `use 11 instead of 15`, where the number that is refused stood before."""
    starts = [token.start for token, _ in numbers]
    first_seen: dict[Fraction, int] = {}
    for token, value in numbers:
        first_seen.setdefault(value, token.start)
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    found: list[Revision] = []
    for match in _REPLACED.finditer(text):
        at = bisect_left(starts, match.end())
        if at >= len(numbers) or starts[at] != match.end():
            continue
        place = bisect_right(ends, match.start())
        sentence = ends[place - 1] if place else 0
        if first_seen[numbers[at][1]] < sentence:
            found.append(Revision("correction", max(sentence, match.start() - REACH), numbers[at][0].end))
    found += [Revision("correction", match.start(), match.end()) for match in _NOT_BUT.finditer(text)]
    for match in _INSTEAD.finditer(text):
        if starts and starts[0] < match.start():
            found.append(Revision("correction", match.start(), match.end()))
    return found


def _changed_approaches(text: str, numbers: _Numbers) -> list[Revision]:
    """Sentences that plan something else than before, and not in order to check."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    found: list[Revision] = []
    for match in _APPROACH.finditer(text):
        place = bisect_right(ends, match.start())
        begin, end = ends[place - 1] if place else 0, ends[place] if place < len(ends) else len(text)
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
