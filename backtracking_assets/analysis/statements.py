"""What a text states: values of expressions and of named quantities, such as `14 × 6 = 84` and `the total is 84`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Kind = Literal["number", "equals", "operator", "open", "close", "word", "stop", "other"]

_TOKEN = re.compile(
    r"(?P<number>\$?[0-9]++(?:,[0-9]{3}(?![0-9]))*+(?:\.[0-9]++)?+%?)"
    r"|(?P<equals>[=≈])"
    r"|(?P<operator>\\(?:times|div|cdot)(?![a-z])|[-+*/×÷·^−])"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])"
    r"|(?P<word>[^\W\d_]++(?:['’][^\W\d_]++)?+)"
    r"|(?P<stop>[.!?;\n…]|:|—)"
    r"|(?P<other>\S)"
)
_OPERATORS = {"\\times": "*", "×": "*", "·": "*", "\\cdot": "*", "\\div": "/", "÷": "/", "−": "-"}
_WORD_OPERATORS = {"times": "*", "plus": "+", "minus": "-", "of": "*", "x": "*"}
_COPULAS = {"is", "are", "was", "were", "equals", "makes", "gives"}
_NUMBER_WORDS = {
    name: str(value)
    for value, name in enumerate(
        (
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
            *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
        )
    )
}
_FRACTION_WORDS = {"half": "1/2", "third": "1/3", "thirds": "1/3", "quarter": "1/4", "quarters": "1/4"}
_FILLING = {"a", "an", "the", "so", "then", "that", "this", "now", "thus", "hence", "therefore", "and", "but", "or"}
_FILLING |= {"okay", "ok", "yes", "no", "hmm", "ah", "oh", "because", "since", "which", "we", "i", "get", "must", "be"}
_PRONOUNS = {"it", "he", "she", "they", "you", "that's", "it's", "what", "who", "there's", "one"}
_HEDGES = {"about", "only", "now", "just", "then", "exactly", "really", "roughly", "approximately", "still"}
_SUPPOSED = {"if", "when", "for", "try", "suppose", "assume", "say", "with", "at", "whether", "until", "let"}
_ALIASES = {("final",): ("answer",), ("final", "answer"): ("answer",), ("sum", "total"): ("total",)}

_LONGEST_NUMBER = 24
_LONGEST_SIDE = 32
"""Tokens of one side of an equation; what is longer is not read."""
_LONGEST_NAME = 9
"""Tokens of a quantity's name."""


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a number or a sign of a text."""

    kind: Kind
    text: str
    """Lower case."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A value that the text gives to something."""

    subject: tuple[str, ...]
    """The expression or the name in a form of its own; empty where the text says `it` and the like."""
    is_expression: bool
    value: Fraction
    decimals: int
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text in order; takes time linear in its length."""
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind, word = match.lastgroup, match.group().casefold()
        assert kind is not None
        if kind == "word" and word in _NUMBER_WORDS:
            kind, word = "number", _NUMBER_WORDS[word]
        elif kind == "word" and word in _FRACTION_WORDS:
            kind, word = "number", _FRACTION_WORDS[word]
        found.append(Token(kind, word, match.start(), match.end()))  # pyright: ignore[reportArgumentType]
    return found


def value_of(token: Token) -> Fraction | None:
    """The number that a token is; None for another token and for a number that no passage needs."""
    if token.kind != "number" or len(token.text) > _LONGEST_NUMBER:
        return None
    return Fraction(token.text.strip("$%").replace(",", ""))


def find_claims(tokens: Sequence[Token]) -> list[Claim]:
    """What the tokens state, in the order of the text; several subjects of one chain `a = b = 5` share its value."""
    claims: list[Claim] = []
    index = 0
    while index < len(tokens):
        if not _equates(tokens, index):
            index += 1
            continue
        index = _read_chain(tokens, index, claims)
    return claims


def _equates(tokens: Sequence[Token], index: int) -> bool:
    token = tokens[index]
    if token.kind == "equals" or (token.kind == "word" and token.text in _COPULAS):
        return True
    # `Total: 31` and `Final: 54` name a value as well; `9:40` does not.
    return token.text == ":" and 0 < index < len(tokens) - 1 and tokens[index - 1].kind != "number"


def _read_chain(tokens: Sequence[Token], first: int, claims: list[Claim]) -> int:
    """Read `left = … = value` around its first sign of equality; the index behind it."""
    begin = _left_expression(tokens, first)
    subjects: list[tuple[tuple[str, ...], bool, int]] = []
    expression = _expression(tokens[begin:first])
    if expression is not None:
        subjects.append((expression, True, tokens[begin].start))
    if expression is None or tokens[first].kind == "word":
        begin = first
    name, name_start = _name(tokens, begin, first)
    if name is not None:
        subjects.append((name, False, name_start))
    index, side_end = first, first
    while True:
        side = index + 1
        while side < len(tokens) and tokens[side].text in _HEDGES | {"\\", "("}:
            side += 1
        side_end = _right_expression(tokens, side)
        if side_end < len(tokens) and side_end > side and _continues(tokens, side_end):
            further = _expression(tokens[side:side_end])
            if further is not None:
                subjects.append((further, True, tokens[side].start))
            index = side_end
            continue
        break
    value = _value(tokens[side:side_end])
    if value is None:
        return first + 1 if side_end <= first + 1 else max(index + 1, first + 1)
    number, decimals = value
    noun = _noun_behind(tokens, side_end)
    for subject, is_expression, start in subjects:
        named = subject
        if not is_expression and (subject[:1] == ("there",) or (not subject and noun[-2:] == ("in", "all"))):
            named = ("there", *noun)
        claims.append(Claim(named, is_expression, number, decimals, start, tokens[side_end - 1].end))
    if not subjects:
        claims.append(Claim((), False, number, decimals, tokens[first].start, tokens[side_end - 1].end))
    return max(side_end, first + 1)


def _continues(tokens: Sequence[Token], index: int) -> bool:
    return tokens[index].kind == "equals" or (
        tokens[index].kind == "word" and tokens[index].text in {"is", "equals", "makes", "gives"}
    )


def _is_part(token: Token) -> bool:
    return token.kind in ("number", "operator", "open", "close") or (
        token.kind == "word" and (token.text in _WORD_OPERATORS or token.text in ("divided", "by", "over"))
    )


def _left_expression(tokens: Sequence[Token], end: int) -> int:
    """Where the expression that ends before a token begins; `end` where there is none."""
    begin = end
    while begin > 0 and end - begin < _LONGEST_SIDE:
        token = tokens[begin - 1]
        if not _is_part(token) and not _is_unit(tokens, begin - 1, end):
            break
        begin -= 1
    while begin < end and tokens[begin].kind not in ("number", "open"):
        begin += 1
    return begin


def _is_unit(tokens: Sequence[Token], index: int, end: int) -> bool:
    """Whether a word stands between a number and an operator, as in `5 shirts × 4 ties`."""
    return (
        tokens[index].kind == "word"
        and index > 0
        and tokens[index - 1].kind == "number"
        and index + 1 < end
        and tokens[index + 1].kind == "operator"
    )


def _right_expression(tokens: Sequence[Token], begin: int) -> int:
    """Behind the expression that begins at a token; a sign of a sentence's end closes it."""
    end = begin
    while end < len(tokens) and end - begin < _LONGEST_SIDE:
        token = tokens[end]
        if not _is_part(token) or (token.kind == "word" and end == begin):
            break
        end += 1
    while end > begin and tokens[end - 1].kind != "number" and tokens[end - 1].kind != "close":
        end -= 1
    if end > begin and tokens[end - 1].kind == "close" and not any(t.kind == "open" for t in tokens[begin:end]):
        end -= 1
    return end


def _expression(side: Sequence[Token]) -> tuple[str, ...] | None:
    """An arithmetic expression in a form of its own; None where it has no operator between two numbers."""
    parts: list[str] = []
    for token in side:
        if token.kind == "number":
            parts.append(token.text.strip("$").replace(",", ""))
        elif token.kind == "operator":
            parts.append(_OPERATORS.get(token.text, token.text))
        elif token.kind in ("open", "close"):
            parts.append("(" if token.kind == "open" else ")")
        elif token.text in _WORD_OPERATORS:
            parts.append(_WORD_OPERATORS[token.text])
        elif token.text in ("divided", "over"):
            parts.append("/")
    signs = {part for part in parts if part in ("+", "-", "*", "/", "^")}
    n_numbers = sum(part[0].isdigit() for part in parts)
    if not signs or n_numbers < 2:
        return None
    if signs <= {"+"} or signs <= {"*"}:
        return (min(signs), *sorted(part for part in parts if part[0].isdigit()))
    return tuple(parts)


def _name(tokens: Sequence[Token], end: int, sign: int) -> tuple[tuple[str, ...] | None, int]:
    """The name of the quantity before a token and where it starts; an empty one for a pronoun, None for no name."""
    begin = end
    while begin > 0 and end - begin < _LONGEST_NAME:
        token = tokens[begin - 1]
        if token.kind not in ("word", "number") or token.text in ("and", "but", "because", "so", "or"):
            break
        begin -= 1
    words = [token.text for token in tokens[begin:end]]
    if any(word in _SUPPOSED for word in words[:2]) or (sign + 2 < len(tokens) and _supposes(tokens, sign)):
        return None, 0
    if words and len(words[-1]) == 1 and words[-1] != "a" and words[-1].isalpha() and tokens[sign].kind == "equals":
        return (words[-1],), tokens[end - 1].start
    kept = tuple(word for word in words if word not in _FILLING)
    start = tokens[begin].start if begin < end else tokens[sign].start
    if not kept or kept[-1] in _PRONOUNS or (len(kept) == 1 and kept[0][0].isdigit()):
        return (), start
    return _ALIASES.get(kept, kept), start


def _supposes(tokens: Sequence[Token], sign: int) -> bool:
    """Whether `x = 1 gives …` tries a value out."""
    return tokens[sign].kind == "equals" and tokens[sign + 2].text in ("gives", "for", "would")


def _value(side: Sequence[Token]) -> tuple[Fraction, int] | None:
    """The number that a side is, a fraction of two whole numbers included, and its decimals."""
    bare = [token for token in side if token.kind not in ("open", "close")]
    sign = 1
    if len(bare) == 2 and bare[0].text in ("-", "−"):
        bare, sign = bare[1:], -1
    if len(bare) == 1 and (number := value_of(bare[0])) is not None:
        return sign * number, len(bare[0].text.rstrip("%").partition(".")[2])
    if len(bare) == 3 and bare[1].text in ("/", "÷"):
        top, bottom = value_of(bare[0]), value_of(bare[2])
        if top is not None and bottom:
            return top / bottom, 0
    return None


def _noun_behind(tokens: Sequence[Token], index: int) -> tuple[str, ...]:
    """The words behind a value, up to four: what there are so many of."""
    end = index
    while end < len(tokens) and end - index < 4 and tokens[end].kind in ("word", "number"):
        end += 1
    return tuple(token.text for token in tokens[index:end])
