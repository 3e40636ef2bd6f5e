"""What a text states: values of expressions and of named quantities, such as `14 × 6 = 84` and `the total is 84`.

Kinds of tokens are letters, so that a text's tokens are searched by regular expressions as its characters are: `n` a
number, `e` a sign of equality, `o` an operator, `(` and `)` any brackets, `[` for those that no value begins with, `:`
a colon, `s` another end of a sentence, `b` a backslash, `x` other signs; of words `c` a copula, `p` part of an
expression, `h` a hedge and `w` every other.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

_NUMBER_OR_OPERATOR = r"\$?[0-9]++(?:,[0-9]{3}(?![0-9]))*+(?:\.[0-9]++)?+%?|\\(?:times|div|cdot)(?![a-z])"
_SPLIT = re.compile(rf"([^\W\d_]++(?:['’][^\W\d_]++)?+|{_NUMBER_OR_OPERATOR}|[\S\n])")
_SPLIT_ASCII = re.compile(rf"([a-zA-Z]++(?:'[a-zA-Z]++)?+|{_NUMBER_OR_OPERATOR}|[^ \t\r\f\v\x1c-\x1f])")
"""The same of a text of ASCII characters; its classes are quicker to test."""
_NUMBER = re.compile(r"\$?[0-9]")
_LETTER = re.compile(r"[^\W\d_]")
_KINDS = {
    **dict.fromkeys("=≈", "e"),
    **dict.fromkeys(("\\times", "\\div", "\\cdot", *"-+*/×÷·^−"), "o"),
    **dict.fromkeys("[{", "["),
    **dict.fromkeys(")]}", ")"),
    **dict.fromkeys(".!?;\n…—", "s"),
    "(": "(",
    ":": ":",
    "\\": "b",
}
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
_REMEMBERED = 50_000
"""Different tokens whose kinds are remembered."""

_EQUATES = re.compile(r"(?:[ec]|(?<=[^n]):)(?=[hb(]*+[no\[)])")
"""A sign or word of equality that a value may follow. `Total: 31` and `Final: 54` name one as well; `9:40` does not."""
_HEDGING = re.compile(r"[hb(]*+")
_SIDE = re.compile(rf"(?:[no(\[)][no(\[)p]{{0,{_LONGEST_SIDE - 1}}}+)?+")
_HEDGES_AHEAD, _GOES_ON = frozenset("hb("), frozenset("no([)p")
_UNIT = re.compile(r"n[wch]o")
_NOUN = re.compile(r"[wcphn]{0,4}+")
_NO_BRACKETS = str.maketrans("", "", "([)")
_JOINS = {"and", "but", "because", "so", "or"}


@dataclass(frozen=True, slots=True)
class Tokens:
    """The words, numbers and signs of a text in order."""

    texts: list[str]
    """Without case, numerals for words of numbers."""
    kinds: str
    """A letter for each, see above."""
    starts: list[int]
    ends: list[int]


class Claim(NamedTuple):
    """A value that the text gives to something."""

    subject: tuple[str, ...]
    """The expression or the name in a form of its own; empty where the text says `it` and the like."""
    is_expression: bool
    value: Fraction
    decimals: int
    start: int
    end: int


class _Vocabulary(dict[str, str]):
    """What is known of a token's characters: its text, or its kind. Bounded, so that no text stays in memory."""

    def __init__(self, part: int) -> None:
        self.part = part

    def __missing__(self, word: str) -> str:
        read = _read_word(word)[self.part]
        if len(word) <= _LONGEST_NUMBER and len(self) < _REMEMBERED:
            self[word] = read
        return read


_TEXTS, _KIND_LETTERS = _Vocabulary(0), _Vocabulary(1)


def _read_word(word: str) -> tuple[str, str]:
    text = word.casefold()
    if _NUMBER.match(word):
        return text, "n"
    if not _LETTER.match(word):
        return text, _KINDS.get(word, "x")
    if text in _NUMBER_WORDS:
        return _NUMBER_WORDS[text], "n"
    if text in _FRACTION_WORDS:
        return _FRACTION_WORDS[text], "n"
    if text in _WORD_OPERATORS or text in ("divided", "by", "over"):
        return text, "p"
    return text, "c" if text in _COPULAS else "h" if text in _HEDGES else "w"


def tokens_of(text: str) -> Tokens:
    """The tokens of a text; takes time linear in its length."""
    parts = (_SPLIT_ASCII if text.isascii() else _SPLIT).split(text)
    places = list(accumulate(map(len, parts)))
    words = parts[1::2]
    texts, kinds = list(map(_TEXTS.__getitem__, words)), "".join(map(_KIND_LETTERS.__getitem__, words))
    return Tokens(texts, kinds, places[0:-1:2], places[1::2])


@lru_cache(maxsize=4096)
def _value_of(text: str) -> Fraction:
    return Fraction(text.strip("$%").replace(",", ""))


def value_of(text: str) -> Fraction | None:
    """The value of a number's text; None for one that is longer than any passage needs."""
    return _value_of(text) if len(text) <= _LONGEST_NUMBER else None


@lru_cache(maxsize=4096)
def _ratio_of(text: str) -> tuple[int, int]:
    return _value_of(text).as_integer_ratio()


def numbers_of(tokens: Tokens) -> tuple[list[int], list[tuple[int, int]]]:
    """The places of the numbers that are not too long, and their values as numerator and denominator."""
    texts = tokens.texts
    places = [place for place, kind in enumerate(tokens.kinds) if kind == "n" and len(texts[place]) <= _LONGEST_NUMBER]
    return places, [_ratio_of(texts[place]) for place in places]


def find_claims(tokens: Tokens) -> list[Claim]:
    """What the tokens state, in the order of the text; several subjects of one chain `a = b = 5` share its value."""
    claims: list[Claim] = []
    sign = _EQUATES.search(tokens.kinds)
    while sign:
        sign = _EQUATES.search(tokens.kinds, _read_chain(tokens, sign.start(), claims))
    return claims


def _read_chain(tokens: Tokens, first: int, claims: list[Claim]) -> int:
    """Read `left = … = value` around its first sign of equality; the index behind it."""
    kinds = tokens.kinds
    further: list[tuple[tuple[str, ...], bool, int]] = []
    index = first
    while True:
        side = index + 1
        if kinds[side : side + 1] in _HEDGES_AHEAD:
            side = _end(_HEDGING, kinds, side)
        # Mostly a single number follows.
        alone = kinds[side : side + 1] == "n" and kinds[side + 1 : side + 2] not in _GOES_ON
        side_end = side + 1 if alone else _right_expression(kinds, side)
        if side < side_end < len(kinds) and kinds[side_end] in "ec" and _continues(tokens, side_end):
            expression = _expression(tokens, side, side_end)
            if expression is not None:
                further.append((expression, True, tokens.starts[side]))
            index = side_end
            continue
        break
    value = _value(tokens, side, side_end)
    if value is None:
        return index + 1
    begin = _left_expression(kinds, first)
    subjects: list[tuple[tuple[str, ...], bool, int]] = []
    expression = _expression(tokens, begin, first)
    if expression is not None:
        subjects.append((expression, True, tokens.starts[begin]))
    name, name_start = _name(tokens, first if expression is None or kinds[first] == "c" else begin, first)
    if name is not None:
        subjects.append((name, False, name_start))
    subjects += further
    number, decimals = value
    for subject, is_expression, start in subjects:
        named = subject
        if not is_expression and subject[:1] in ((), ("there",)):
            noun = _noun_behind(tokens, side_end)
            if subject or noun[-2:] == ("in", "all"):
                named = ("there", *noun)
        claims.append(Claim(named, is_expression, number, decimals, start, tokens.ends[side_end - 1]))
    if not subjects:
        claims.append(Claim((), False, number, decimals, tokens.starts[first], tokens.ends[side_end - 1]))
    return max(side_end, first + 1)


def _end(pattern: re.Pattern[str], kinds: str, index: int) -> int:
    match = pattern.match(kinds, index)
    return match.end() if match else index


def _continues(tokens: Tokens, index: int) -> bool:
    return tokens.kinds[index] == "e" or tokens.texts[index] in ("is", "equals", "makes", "gives")


def _left_expression(kinds: str, end: int) -> int:
    """Where the expression that ends before a token begins; `end` where there is none."""
    if end == 0 or kinds[end - 1] not in "no([)p":
        return end
    begin = end
    while begin > 0 and end - begin < _LONGEST_SIDE:
        # A unit may stand between a number and an operator, as in `5 shirts × 4 ties`.
        if kinds[begin - 1] not in "no([)p" and not (begin < end and _UNIT.match(kinds, max(begin - 2, 0))):
            break
        begin -= 1
    while begin < end and kinds[begin] not in "n([":
        begin += 1
    return begin


def _right_expression(kinds: str, begin: int) -> int:
    """Behind the expression that begins at a token; a sign of a sentence's end closes it."""
    run = kinds[begin : _end(_SIDE, kinds, begin)].rstrip("op([")
    if run.endswith(")") and "(" not in run and "[" not in run:
        run = run[:-1]
    return begin + len(run)


def _expression(tokens: Tokens, begin: int, end: int) -> tuple[str, ...] | None:
    """An arithmetic expression in a form of its own; None where it has no operator between two numbers."""
    if end - begin < 3:
        return None
    kinds = tokens.kinds[begin:end]
    if kinds.count("n") < 2 or not ("o" in kinds or "p" in kinds):
        return None
    parts: list[str] = []
    for kind, text in zip(kinds, tokens.texts[begin:end], strict=True):
        if kind == "n":
            parts.append(text.strip("$").replace(",", ""))
        elif kind == "o":
            parts.append(_OPERATORS.get(text, text))
        elif kind in "([)":
            parts.append(")" if kind == ")" else "(")
        elif text in _WORD_OPERATORS:
            parts.append(_WORD_OPERATORS[text])
        elif text in ("divided", "over"):
            parts.append("/")
    signs = {part for part in parts if part in ("+", "-", "*", "/", "^")}
    if not signs:
        return None
    if signs <= {"+"} or signs <= {"*"}:
        return (min(signs), *sorted(part for part in parts if part[0].isdigit()))
    return tuple(parts)


def _name(tokens: Tokens, end: int, sign: int) -> tuple[tuple[str, ...] | None, int]:
    """The name of the quantity before a token and where it starts; an empty one for a pronoun, None for no name."""
    begin = end
    while begin > 0 and end - begin < _LONGEST_NAME:
        if tokens.kinds[begin - 1] not in "wcphn" or tokens.texts[begin - 1] in _JOINS:
            break
        begin -= 1
    words = tokens.texts[begin:end]
    if not _SUPPOSED.isdisjoint(words[:2]) or _supposes(tokens, sign):
        return None, 0
    if words and len(words[-1]) == 1 and words[-1] != "a" and words[-1].isalpha() and tokens.kinds[sign] == "e":
        return (words[-1],), tokens.starts[end - 1]
    kept = tuple([word for word in words if word not in _FILLING])
    start = tokens.starts[begin if begin < end else sign]
    if not kept or kept[-1] in _PRONOUNS or (len(kept) == 1 and kept[0][0].isdigit()):
        return (), start
    return _ALIASES.get(kept, kept), start


def _supposes(tokens: Tokens, sign: int) -> bool:
    """Whether `x = 1 gives …` tries a value out."""
    return tokens.kinds[sign] == "e" and tokens.texts[sign + 2 : sign + 3] in (["gives"], ["for"], ["would"])


def _value(tokens: Tokens, begin: int, end: int) -> tuple[Fraction, int] | None:
    """The number that a side is, a fraction of two whole numbers included, and its decimals."""
    if end - begin == 1 and tokens.kinds[begin] == "n":
        text = tokens.texts[begin]
        number = value_of(text)
        return None if number is None else (number, len(text.rstrip("%").partition(".")[2]))
    kinds = tokens.kinds[begin:end]
    bare = [text for kind, text in zip(kinds, tokens.texts[begin:end], strict=True) if kind not in "([)"]
    kinds = kinds.translate(_NO_BRACKETS)
    sign = 1
    if len(bare) == 2 and bare[0] in ("-", "−"):
        bare, kinds, sign = bare[1:], kinds[1:], -1
    if len(bare) == 1 and kinds == "n" and (number := value_of(bare[0])) is not None:
        return number if sign > 0 else -number, len(bare[0].rstrip("%").partition(".")[2])
    if len(bare) == 3 and bare[1] in ("/", "÷") and kinds[0] == kinds[-1] == "n":
        top, bottom = value_of(bare[0]), value_of(bare[2])
        if top is not None and bottom:
            return top / bottom, 0
    return None


def _noun_behind(tokens: Tokens, index: int) -> tuple[str, ...]:
    """The words behind a value, up to four: what there are so many of."""
    return tuple(tokens.texts[index : _end(_NOUN, tokens.kinds, index)])
