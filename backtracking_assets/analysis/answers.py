r"""Finding the answer of a completion and comparing it with the reference answer.

Where the answer is
    After the last ``</think>``, if an answer is found there; otherwise in the whole text. Only the last
    ``SEARCHED_CHARACTERS`` characters are searched. The answer is the rest of the last line that starts with the
    marker, whatever its case and markdown; if that is empty or there is no such line, the content of the last
    complete ``\boxed{…}``.

When it is correct
    Both texts are stripped of markdown, dollar signs, trailing punctuation, invisible characters and an opening such
    as ``x =`` or ``the answer is``. Then the first rule that applies decides.

    1. An answer of more than ``LONGEST_ANSWER`` characters equals nothing.
    2. Equal texts are equal, in any case.
    3. Two numbers are compared exactly, as fractions: integers, decimals, thousands separators, ``1/2``,
       ``\frac{1}{2}``, exponents of up to three digits. A number followed by a unit counts as the number, and so does
       one with a currency sign: ``70 apples`` is 70. A percent sign is a unit: ``70%`` is 70 and never 0.7. Words that
       change the value are no units: ``70 million`` and ``70 or 80`` are not 70.
    4. Constant expressions within fixed bounds, such as ``35 + 35`` or ``2\sqrt{3}``, are compared by math-verify.
    5. Everything else is unequal: what cannot be read as the reference is wrong.

The bounds keep every call short whatever the input. They take the place of math-verify's own timeouts, which use
SIGALRM and therefore fail outside the main thread.
"""

import logging
import re
import threading
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from backtracking_assets.records import Verdict

SEARCHED_CHARACTERS = 200_000
LONGEST_ANSWER = 1_000
"""Longer answers are cut to this length for the record and are never correct."""

_LONGEST_EXPRESSION = 40
_REMEMBERED_CHARACTERS = 100
"""Of an answer and a reference whose comparison is remembered."""
_BOXES_TRIED = 8
_THINK_CLOSE = "</think>"


class Answer(NamedTuple):
    """The answer as found, without markup and at most ``LONGEST_ANSWER`` characters; None where there is none."""

    found: str | None
    verdict: Verdict


def judge(text: str, reference: str, marker: str = "Final:") -> Answer:
    """Find the answer in a completion's text and compare it with the reference answer.

    Never raises on any text, and takes under 50 ms once ``warm_up`` has run.
    """
    return judge_folded(text, folded_ascii(text), reference, marker)


def judge_folded(text: str, folded: bytes, reference: str, marker: str = "Final:") -> Answer:
    """`judge` for who has the text as `folded_ascii` gives it."""
    found = _find(text, folded, marker)
    if found is None:
        return Answer(None, "no_answer")
    return Answer(found[:LONGEST_ANSWER], "correct" if equal(found, reference) else "wrong")


def find_answer(text: str, marker: str = "Final:") -> str | None:
    """The answer of a completion without markup; None where there is none.

    It may be longer than ``LONGEST_ANSWER``, by which `equal` knows it.
    """
    return _find(text, folded_ascii(text), marker)


def _find(text: str, folded: bytes, marker: str) -> str | None:
    if len(text) > SEARCHED_CHARACTERS:
        text, folded = text[-SEARCHED_CHARACTERS:], folded[-SEARCHED_CHARACTERS:]
    close = text.rfind(_THINK_CLOSE)
    if close >= 0:
        behind = close + len(_THINK_CLOSE)
        found = _answer_in(text[behind:], folded[behind:], marker)
        if found is not None:
            return found
    return _answer_in(text, folded, marker)


def equal(found: str, reference: str) -> bool:
    """Whether an answer equals the reference answer, by the rules above; reads ``answers`` and references alike."""
    if len(found) > LONGEST_ANSWER or len(reference) > LONGEST_ANSWER:
        return False
    if found == reference:
        return True
    if found.isdigit() and reference.isdigit() and found.isascii() and reference.isascii():
        return int(found) == int(reference)
    if len(found) + len(reference) <= _REMEMBERED_CHARACTERS:
        return _equal_again(found, reference)
    return _equal(found, reference)


def _equal(found: str, reference: str) -> bool:
    answer, expected = _bare(found), _bare(reference)
    if answer.casefold() == expected.casefold():
        return True
    expected_number = _number(expected)
    answer_number = _number(answer)
    if expected_number is not None and answer_number is not None:
        return answer_number == expected_number
    answer_expression, expected_expression = _expression(answer), _expression(expected)
    if answer_expression is None or expected_expression is None:
        return False
    return _equal_expressions(expected_expression, answer_expression)


# Answers recur; math-verify takes some milliseconds for one.
_equal_again = lru_cache(maxsize=16_384)(_equal)


def warm_up() -> None:
    """Import math-verify and let its parser build its tables, so that later calls keep their time bound.

    Takes about a second. Only answers that are expressions need it.
    """
    for expression in _WARM_UP:
        equal(expression, expression + " + 0")


# --- Finding -----------------------------------------------------------------------------------------------------

_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe0f\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ALSO_ASCII = "\u0131\u0130\u017f\u212a"
"""Letters outside ASCII that a pattern takes for one of ASCII where case is ignored."""
_LEFT_MARKUP = " \t\r\n*_`$:"
_RIGHT_MARKUP = _LEFT_MARKUP + ".,;!\\"
_BOXED = "\\boxed{"


@lru_cache(maxsize=32)
def _marker_line(marker: str) -> re.Pattern[str]:
    """A line that starts with the marker: leading markdown is skipped, and emphasis may close before the colon."""
    stem = marker.strip()
    colon = stem.endswith(":")
    words = r"[ \t]+".join(re.escape(word) for word in stem.rstrip(":").split())
    end = r"[*_ \t]{0,8}:" if colon else (r"(?!\w)" if stem[-1:].isalnum() else "")
    return re.compile(rf"^[ \t>#*_`\-\u200e\u200f]{{0,24}}{words}{end}([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


@lru_cache(maxsize=32)
def _first_word(marker: str) -> bytes | None:
    """What a line with the marker has in lower case; None where that is not plain ASCII."""
    words = marker.strip().rstrip(":").lower().split()
    return words[0].encode() if words and words[0].isascii() else None


def _answer_in(text: str, folded: bytes, marker: str) -> str | None:
    rest = _last_marked(text, folded, marker)
    if rest is not None:
        answer = _answer_again(rest) if len(rest) <= _REMEMBERED_CHARACTERS else _answer_of(rest)
        if answer:
            return answer
    boxed = _last_boxed(text)
    return (_presentable(boxed) or None) if boxed is not None else None


def _answer_of(rest: str) -> str:
    """What a marked line says is the answer; empty where it says nothing."""
    return _presentable(_last_boxed(rest) or rest)


# Answers recur.
_answer_again = lru_cache(maxsize=16_384)(_answer_of)


def _last_marked(text: str, folded: bytes, marker: str) -> str | None:
    """The rest of the last line that starts with the marker."""
    word = _first_word(marker)
    if word is None or (not text.isascii() and any(letter in text for letter in _ALSO_ASCII)):
        rest = None
        for line in _marker_line(marker).finditer(text):
            rest = line.group(1)
        return rest
    place = folded.rfind(word)
    while place >= 0:
        begin = folded.rfind(b"\n", 0, place) + 1
        line = _marker_line(marker).match(text, begin)
        if line is not None:
            return line.group(1)
        place = folded.rfind(word, 0, begin)
    return None


def folded_ascii(text: str) -> bytes:
    """A text in lower case with a `?` for every character outside ASCII, as many bytes as characters."""
    return text.encode("ascii", "replace").lower()


def _last_boxed(text: str) -> str | None:
    r"""Content of the last complete ``\boxed{…}`` among the last few, so that repeated openings cost no more."""
    start = len(text)
    for _ in range(_BOXES_TRIED):
        start = text.rfind(_BOXED, 0, start)
        if start < 0:
            return None
        content = start + len(_BOXED)
        depth = 1
        for brace in re.finditer(r"[{}]", text[content : content + 4 * LONGEST_ANSWER]):
            depth += 1 if brace.group() == "{" else -1
            if depth == 0:
                return text[content : content + brace.start()]
    return None


def _presentable(answer: str) -> str:
    """The answer as it is stored: valid Unicode, no invisible characters, no markup at its edges."""
    answer = answer[: 2 * LONGEST_ANSWER]  # twice: an overlong answer stays overlong
    if answer.isascii() and answer.isprintable():
        return _trimmed(answer)
    visible = _INVISIBLE.sub("", answer)
    return _trimmed(_SURROGATE.sub("\ufffd", visible))


def _trimmed(text: str) -> str:
    """The text without spaces, emphasis, math delimiters and closing punctuation around it."""
    text = text.lstrip(_LEFT_MARKUP)
    while text.startswith(("\\(", "\\[")):
        text = text[2:].lstrip(_LEFT_MARKUP)
    text = text.rstrip(_RIGHT_MARKUP)
    while text.endswith(("\\)", "\\]")):
        text = text[:-2].rstrip(_RIGHT_MARKUP)
    return text


# --- Reading numbers ---------------------------------------------------------------------------------------------

_OPENING = re.compile(
    r"^(?:(?:so |thus |therefore )?(?:the )?(?:final )?answer(?: is)?\s*[:=]?|[A-Za-z]\s*=|=|≈)\s*", re.IGNORECASE
)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[,;:! ]|~|[\u00a0\u2009\u202f]")
_GROUPED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:(?:,|\{,\}|\\,|[\u00a0\u2009\u202f])[0-9]{3})+(?![0-9]|,[0-9])")
_NOT_DIGIT = re.compile(r"[^0-9]")
_SIGNS = str.maketrans({"−": "-", "–": "-", "⁄": "/", "×": "*", "·": "*", "÷": "/"})

_DIGITS = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_PLAIN = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:[$€£¥₹]|\\\$)?\s*(?P<sign2>[+-]?)"
    rf"(?:\\[dt]?frac\s*\{{\s*(?P<top>-?[0-9]+)\s*\}}\s*\{{\s*(?P<bottom>[0-9]+)\s*\}}"
    rf"|(?P<numerator>[0-9]+)\s*/\s*(?P<denominator>[0-9]+)"
    rf"|(?P<decimal>{_DIGITS}(?:[eE][+-]?[0-9]{{1,3}}(?![0-9]))?))"
    r"(?P<unit>.*)",
    re.DOTALL,
)
_UNIT_WORD = r"(?:[^\W\d_]{1,30}(?:[²³]|\^\{?[23]\}?)?|\\?%|\\?\$|[€£¥₹]|°\s?[CFK]?|\^?\\circ)"
_UNIT = re.compile(rf"\s*{_UNIT_WORD}(?:(?:\s*/\s*|\s+|-){_UNIT_WORD}){{0,4}}\s*[.!]?")
_VALUE_WORDS = frozenset(
    {"and", "or", "plus", "minus", "times", "over", "by", "to", "than", "not", "pi", "x", "y", "z", "n", "k", "i", "e"}
    | {"M", "B", "K", "half", "hundred", "hundreds", "thousand", "thousands", "million", "millions", "billion"}
    | {"billions", "trillion", "trillions", "dozen", "dozens"}
)
"""Words after a number that make it another number."""


def _bare(answer: str) -> str:
    """An answer without markup, grouping of digits, and the words or the left side before it."""
    bare = _SPACING.sub(" ", _GROUPED.sub(lambda match: _NOT_DIGIT.sub("", match.group()), _presentable(answer)))
    bare = _TEXT_COMMAND.sub(r" \1", bare).replace("**", "^").translate(_SIGNS)
    bare = _OPENING.sub("", _trimmed(bare), count=1)
    if "=" in bare:
        bare = bare.rsplit("=", 1)[1] or bare
    return " ".join(_trimmed(bare).split())


def _number(bare: str) -> Fraction | None:
    """The number that an answer states, with or without a unit; None where it states none, or a zero denominator."""
    match = _PLAIN.fullmatch(bare)
    if match is None or (match["sign"] and match["sign2"]):
        return None
    unit = match["unit"]
    if unit.strip() and not _is_unit(unit):
        return None
    if match["decimal"] is not None:
        value = Fraction(Decimal(match["decimal"]))
    else:
        bottom = int(match["bottom"] or match["denominator"])
        if bottom == 0:
            return None
        value = Fraction(int(match["top"] or match["numerator"]), bottom)
    return -value if "-" in (match["sign"], match["sign2"]) else value


def _is_unit(unit: str) -> bool:
    if _UNIT.fullmatch(unit) is None:
        return False
    words = re.findall(r"[^\W\d_]+", unit)
    return not any(word in _VALUE_WORDS or word.casefold() in _VALUE_WORDS for word in words)


# --- Constant expressions ----------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"\s+|(?P<number>[0-9]{1,9}(?:\.[0-9]{1,9})?(?![0-9.]))"
    r"|\\(?P<command>frac|dfrac|tfrac|sqrt|pi)(?![A-Za-z])"
    r"|(?P<power>\^\s*(?:[0-9](?![0-9.])|\(-?[0-9]{1,2}\)|\{\s*-?[0-9]{1,2}\s*\}))"
    r"|(?P<parenthesis>[()])|(?P<open>\{)|(?P<close>\})|(?P<operator>[-+*/])"
)
_MOST = {"number": 6, "power": 1, "open": 4, "parenthesis": 8, "operator": 5, "command": 3}
_DEEPEST = 3
_LATEX_OPERATORS = (
    (re.compile(r"\\(?:cdot|times)(?![A-Za-z])"), "*"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\(?:left|right)(?![A-Za-z])"), ""),
)
_POWER = re.compile(r"\^\s*(?:\{([^}]*)\}|([0-9]))")
_IMPLICIT_PRODUCT = re.compile(r"(?<=[0-9)])\s*(?=\()")
_WARM_UP = (
    "35 + 35",
    "2 * (3 + 4) - 5/6",
    r"-2\sqrt{3}",
    r"\frac{1}{2} + \frac{3}{4}",
    r"\frac{\sqrt{2}}{2} - \frac{\pi}{4}",
    r"\frac{1 + 2}{3 * 4}",
    r"\sqrt{\frac{1}{2}}",
    r"\sqrt{2 + \sqrt{3}}",
    r"\frac{\frac{1}{2}}{\frac{3}{4}}",
    r"\sqrt{1.5 / 2} \cdot 10^{-3}",
    r"2^3 \div 4 + \pi",
    r"\pi^2 \times \frac{1 - 2}{3}",
)

# The parser's tables and SymPy's caches are shared by all threads of the process and are not documented as safe.
_MATH_VERIFY_LOCK = threading.Lock()


def _expression(bare: str) -> str | None:
    """The answer as a constant expression, or None where it is none within the bounds.

    Parentheses and LaTeX commands do not go together: the LaTeX parser takes a quarter of a second for some short
    texts with parentheses, which it also reads as intervals and arguments.
    """
    if len(bare) > _LONGEST_EXPRESSION:
        return None
    for pattern, replacement in _LATEX_OPERATORS:
        bare = pattern.sub(replacement, bare)
    counts: dict[str, int] = {}
    position = depth = 0
    while position < len(bare):
        token = _TOKEN.match(bare, position)
        if token is None:
            return None
        position = token.end()
        kind = token.lastgroup or "space"
        counts[kind] = counts.get(kind, 0) + 1
        depth += (kind == "open" or token.group() == "(") - (kind == "close" or token.group() == ")")
        if not 0 <= depth <= _DEEPEST or counts[kind] > _MOST.get(kind, _LONGEST_EXPRESSION):
            return None
    if depth or ("command" in counts and "parenthesis" in counts) or not ({"number", "command"} & counts.keys()):
        return None
    return bare


def _equal_expressions(expected: str, answer: str) -> bool:
    """Compare two bounded constant expressions by math-verify; False where it cannot read one of them."""
    import math_verify

    with _MATH_VERIFY_LOCK:
        # math-verify warns once that no timeout is set, which is meant here: inputs are bounded instead.
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        try:
            left, right = _parsed(expected), _parsed(answer)
            # Simplification is slow and can only confirm what agrees numerically, so most pairs end here.
            difference, size = abs(float((left - right).evalf(20))), abs(float(left.evalf(20)))
            return difference <= 1e-9 * max(1.0, size) and math_verify.verify(left, right, timeout_seconds=0)
        except Exception:
            # SymPy raises many kinds on 1/0, on non-real values and on values beyond a float. By rule 5 an
            # answer that cannot be read as the reference is wrong.
            return False


def _parsed(expression: str) -> Any:
    """A SymPy expression of a text that passed `_expression`; plain arithmetic does without the slow LaTeX parser."""
    import math_verify
    import sympy

    if "\\" not in expression:
        arithmetic = _POWER.sub(r"**(\1\2)", _IMPLICIT_PRODUCT.sub("*", expression)).replace("^", "**")
        return sympy.parse_expr(arithmetic, evaluate=False)
    target = [math_verify.LatexExtractionConfig()]
    (value,) = math_verify.parse(f"${expression}$", target, "no_fallback", parsing_timeout=0)
    return value
