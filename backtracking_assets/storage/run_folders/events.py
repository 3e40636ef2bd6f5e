"""The events file of a run folder: one row for each completion, by its key."""

from pathlib import Path

from backtracking_assets.imported_records import ImportedEvent
from backtracking_assets.storage.run_folders.files import FileProblems, read_csv
from backtracking_assets.storage.run_folders.values import Row

REQUIRED = ("example_id", "sample_id", "variant", "condition", "has_backtracking_strict")

_Key = tuple[str, str, str, int]


def read_events(path: Path, problems: FileProblems) -> tuple[list[ImportedEvent], list[str]]:
    """The events by key, and the columns of the file.

    Where a key stands twice with the same content, one row is taken; with other content none of them is, since which
    of them is right cannot be told. Both are named.

    Raises:
        RunFolderError: the file is something else, or no row of it can be read.
    """
    rows, columns = read_csv(path, REQUIRED, _event, problems)
    by_key: dict[_Key, list[ImportedEvent]] = {}
    for event in rows:
        by_key.setdefault((event.condition, event.variant, event.example_id, event.sample_id), []).append(event)
    kept: list[ImportedEvent] = []
    for (condition, variant, example, sample), events in sorted(by_key.items()):
        first = events[0]
        key = f"example {example}, sample {sample}, {variant}, {condition}"
        same = all(_content(event) == _content(first) for event in events)
        if same:
            kept.append(first)
        elif len(events) > 1:
            lines = ", ".join(str(event.line) for event in events[1:6])
            problems.leave_out(f"line {first.line}", f"{key} stands with other content at line {lines}")
        for event in events[1:]:
            with_what = "the same" if same else "other"
            problems.leave_out(f"line {event.line}", f"{key} stands with {with_what} content at line {first.line}")
    return kept, columns


def _event(row: Row, line: int) -> ImportedEvent:
    return ImportedEvent(
        line=line,
        condition=row.name("condition"),
        variant=row.name("variant"),
        example_id=row.name("example_id"),
        sample_id=row.whole("sample_id"),
        has_strict=row.flag("has_backtracking_strict"),
        has_relaxed=row.optional_flag("has_backtracking_relaxed"),
        onset_phrase=row.text("onset_phrase"),
        onset_character=row.onset("onset_char"),
        onset_token=row.onset("onset_token_in_completion"),
        onset_token_id=row.onset("onset_token_id"),
        predicted_answer=row.text("predicted_answer"),
        is_correct=row.optional_flag("is_correct"),
        prompt_tokens=row.optional_whole("prompt_tokens"),
        completion_tokens=row.optional_whole("completion_tokens"),
        finish_reason=row.text("finish_reason"),
    )


def _content(event: ImportedEvent) -> tuple[object, ...]:
    return tuple(value for name, value in vars(event).items() if name != "line")
