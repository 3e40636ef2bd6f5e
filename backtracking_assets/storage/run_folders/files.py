"""Files of a run folder: finding them, and reading CSV and JSON that may be anything."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from backtracking_assets.errors import RunFolderError
from backtracking_assets.imported_records import Unreadable
from backtracking_assets.storage.run_folders.values import Row, UnfitValueError, shown

_Made = TypeVar("_Made")

MOST_BYTES = 256 * 2**20
MOST_UNREADABLE = 1000
"""Rows and values of one file that are left out before the file is refused as something else."""
_LONGEST_RECORD = 1000
"""Lines of one record: a quote that is never closed must not swallow the file."""


@dataclass
class FileProblems:
    """What of one file was left out. Raises where it is so much that the file must be something else."""

    path: Path
    found: list[Unreadable] = field(default_factory=list)

    def leave_out(self, place: str, reason: str) -> None:
        """Raises:
        RunFolderError: more than `MOST_UNREADABLE` were left out.
        """
        self.found.append(Unreadable(self.path.name, place, reason))
        if len(self.found) > MOST_UNREADABLE:
            raise RunFolderError(
                f"{self.path}: more than {MOST_UNREADABLE:,} rows cannot be read, the first is {self.found[0].place}: "
                f"{self.found[0].reason}; it is not a file of this layout, nothing was imported: take it out of the "
                "folder or mend it."
            )


def find_file(folder: Path, name: str) -> Path | None:
    """The file in the folder itself or in its `analysis/`; None where it is in neither.

    Raises:
        RunFolderError: it is in both, with different content.
    """
    found = [path for path in (folder / "analysis" / name, folder / name) if path.is_file()]
    if len(found) == 2 and content_of(found[0]) != content_of(found[1]):
        raise RunFolderError(
            f"{found[0]} and {found[1]} differ, and which of them is right cannot be told; nothing was imported: "
            "take one out of the folder."
        )
    return found[0] if found else None


def content_of(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        RunFolderError: it cannot be read, or is too large to be a file of this layout.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RunFolderError(f"{path} has more than {MOST_BYTES // 2**20} MiB; nothing was imported.")
        return path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}; nothing was imported.") from error


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def text_of(path: Path) -> str:
    """The text of a file without a byte-order mark; bytes that are no UTF-8 stay as lone surrogates.

    Raises:
        RunFolderError: it cannot be read, or is UTF-16.
    """
    content = content_of(path)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RunFolderError(f"{path} is UTF-16; nothing was imported: save it as UTF-8.")
    return content.decode("utf-8-sig", errors="surrogateescape")


def read_csv(
    path: Path, required: Sequence[str], make: Callable[[Row, int], _Made], problems: FileProblems
) -> tuple[list[_Made], list[str]]:
    """What `make` makes of each row and its line, and the columns. Rows that cannot be read are left out and named.

    Raises:
        RunFolderError: a required column is missing or named twice, or no row can be read.
    """
    records = _records(text_of(path), problems)
    header = next(records, None)
    if header is None:
        raise RunFolderError(f"{path} is empty or no CSV file; nothing was imported: take it out of the folder.")
    columns = [name.strip() for name in header[1]]
    if missing := [name for name in required if name not in columns]:
        raise RunFolderError(
            f"{path}: column {', '.join(missing)} is missing; its columns are "
            f"{', '.join(shown(name) for name in columns[:20])}. Nothing was imported."
        )
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise RunFolderError(f"{path}: column {twice[0]} is named twice; nothing was imported.")
    made: list[_Made] = []
    for line, values in records:
        try:
            made.append(make(Row(_by_column(columns, values)), line))
        except UnfitValueError as error:
            problems.leave_out(f"line {line}", str(error))
    if not made and problems.found:
        first = problems.found[0]
        raise RunFolderError(
            f"{path}: none of its rows can be read, the first is {first.place}: {first.reason}; nothing was imported."
        )
    return made, columns


def _by_column(columns: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    if len(values) != len(columns):
        raise UnfitValueError(f"it has {len(values)} values where there are {len(columns)} columns")
    for column, value in zip(columns, values, strict=True):
        if "\x00" in value:
            raise UnfitValueError(f"{column} holds a NUL byte")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise UnfitValueError(f"{column} holds bytes that are no UTF-8")
    return dict(zip(columns, values, strict=True))


def _records(text: str, problems: FileProblems) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the line where it starts, counted from 1."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    at = 0
    while at < len(lines):
        # Strict, so that an unclosed quote is an error here; and then only its own line is left out.
        rest = range(at, min(at + _LONGEST_RECORD, len(lines)))
        reader = csv.reader((f"{lines[number]}\n" for number in rest), strict=True)
        try:
            values = next(reader, [])
        except csv.Error as error:
            if lines[at].strip():
                problems.leave_out(f"line {at + 1}", f"it is no CSV row ({error})")
            at += 1
            continue
        if any(value.strip() for value in values):
            yield at + 1, values
        at += max(reader.line_num, 1)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Numbers come as text, so that none overflows here.

    Raises:
        RunFolderError: it holds none, or a key twice.
    """
    try:
        content = json.loads(
            text_of(path), parse_int=_Number, parse_float=_Number, parse_constant=_Number, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is no JSON file ({_first_line(error)}); nothing was imported.") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} holds no JSON object but a {type(content).__name__}; nothing was imported.")
    return content


class _Number(str):
    """A number of a JSON file as it stands there."""

    __slots__ = ()


def is_number(value: object) -> bool:
    """Whether a value of `read_json` was a number in the file."""
    return isinstance(value, _Number)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key {shown(twice)} stands twice in one object")
    return made


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
