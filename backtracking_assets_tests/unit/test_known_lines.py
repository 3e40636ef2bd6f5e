"""What lines of chains say is found again also after an interruption or an error while one was added."""

from collections.abc import Callable

import pytest

from backtracking_assets.analysis import known_lines
from backtracking_assets.analysis.known_lines import STEP, UNREADABLE
from backtracking_assets_tests.unit.analysis_samples import RULES


class _CutOff(known_lines._KnownLines):
    """Is interrupted before it has the number of one line."""

    def __setitem__(self, line: str, number: int) -> None:
        if line == "9 + 9 = 18" and "x" not in self:
            raise KeyboardInterrupt
        super().__setitem__(line, number)


def _check(known: known_lines._KnownLines) -> None:
    rows = {line: known.table()[number].tolist() for line, number in known.items()}
    for line, row in rows.items():
        assert row == list(known_lines._parsed(line, known.trigger)), line


def test_an_interruption_while_a_line_is_added_leaves_later_lines_what_they_say() -> None:
    known = _CutOff(RULES.strict)
    known["1 + 1 = 2"]
    with pytest.raises(KeyboardInterrupt):
        known["9 + 9 = 18"]
    for line in ("x", "2 - 1 = 1", "9 + 9 = 18"):
        known[line]
    assert len(set(known.values())) == len(known) == 4
    _check(known)
    assert [known.table()[known[line]][0] for line in ("1 + 1 = 2", "x", "9 + 9 = 18")] == [STEP, UNREADABLE, STEP]


def test_a_line_that_cannot_be_added_leaves_no_part_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    known = known_lines._KnownLines(RULES.strict)
    known["1 + 1 = 2"]
    parsed: Callable[..., tuple[int, ...]] = known_lines._parsed
    with monkeypatch.context() as patched:
        patched.setattr(known_lines, "_parsed", lambda line, trigger: (*parsed(line, trigger)[:4], 2**64, 0, 0))
        with pytest.raises(OverflowError):
            known["9 + 9 = 18"]
    known["2 - 1 = 1"]
    _check(known)
