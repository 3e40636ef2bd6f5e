"""Values of a run folder's files: text from outside, turned into values or refused with a reason."""

import math
import re
from collections.abc import Mapping

_LONGEST_NUMBER, _LONGEST_NAME, _SHOWN = 40, 200, 40
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "unknown"})
_TRUE, _FALSE = frozenset({"true", "1", "1.0"}), frozenset({"false", "0", "0.0"})
_LARGEST = 2**31 - 1


class UnfitValueError(ValueError):
    """A value is not what its column holds; the text says what it is."""


class Row:
    """One row of a CSV file by column name. A column that the file lacks reads as missing."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, column: str) -> str | None:
        """The text as it stands; None where it is empty."""
        return self._values.get(column) or None

    def name(self, column: str) -> str:
        """A text that names something.

        Raises:
            UnfitValueError: it is missing, too long, or holds a character that cannot be seen.
        """
        value = self._values.get(column, "").strip()
        if not value:
            raise UnfitValueError(f"{column} is empty")
        if len(value) > _LONGEST_NAME:
            raise UnfitValueError(f"{column} has {len(value):,} characters, more than {_LONGEST_NAME}")
        if not value.isprintable():
            raise UnfitValueError(f"{column} holds a character that cannot be seen: {shown(value)}")
        return value

    def whole(self, column: str, *, least: int = 0) -> int:
        """A whole number of at least `least`.

        Raises:
            UnfitValueError: it is missing, no whole number, or out of range.
        """
        value = self.optional_whole(column, least=least)
        if value is None:
            raise UnfitValueError(f"{column} is empty")
        return value

    def optional_whole(self, column: str, *, least: int = 0) -> int | None:
        """As `whole`; None where it is missing."""
        text = self._present(column)
        if text is None:
            return None
        if len(text) > _LONGEST_NUMBER or not _WHOLE.fullmatch(text):
            raise UnfitValueError(f"{column} is {shown(text)}, which is no whole number")
        value = int(text.partition(".")[0])
        if not least <= value <= _LARGEST:
            raise UnfitValueError(f"{column} is {shown(text)}, outside {least} to {_LARGEST}")
        return value

    def onset(self, column: str) -> int | None:
        """A place in a completion; None where there is none, which the study writes as -1."""
        value = self.optional_whole(column, least=-1)
        return None if value == -1 else value

    def flag(self, column: str) -> bool:
        """True or False.

        Raises:
            UnfitValueError: it is neither.
        """
        value = self.optional_flag(column)
        if value is None:
            raise UnfitValueError(f"{column} is empty")
        return value

    def optional_flag(self, column: str) -> bool | None:
        """As `flag`; None where it is missing or unknown."""
        text = self._present(column)
        if text is None:
            return None
        if text.lower() not in _TRUE | _FALSE:
            raise UnfitValueError(f"{column} is {shown(text)}, which is neither True nor False")
        return text.lower() in _TRUE

    def optional_number(self, column: str) -> float | None:
        """A finite number; None where it is missing.

        Raises:
            UnfitValueError: it is no number, or too large to be one.
        """
        text = self._present(column)
        return None if text is None else number(text, column)

    def _present(self, column: str) -> str | None:
        text = self._values.get(column, "").strip()
        return None if text.lower() in _MISSING else text


def number(text: str, what: str) -> float:
    """A finite number.

    Raises:
        UnfitValueError: the text is no number, or too large to be one.
    """
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        raise UnfitValueError(f"{what} is {shown(text)}, which is no number")
    value = float(text)
    if not math.isfinite(value):
        raise UnfitValueError(f"{what} is {shown(text)}, which is too large")
    return value


def shown(text: str) -> str:
    """A text as a message shows it: quoted, cut to a bearable length, nothing hidden in it."""
    return ascii(text[:_SHOWN]) + (f" and {len(text) - _SHOWN:,} more characters" if len(text) > _SHOWN else "")
