"""Run folders are read whatever stands in their files, and what cannot be read is named."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backtracking_assets.errors import RunFolderError
from backtracking_assets.imported_records import RunFolder
from backtracking_assets.storage.run_folders.folder import FILES, read_run_folder
from backtracking_assets_tests.unit.bounds import bounded
from backtracking_assets_tests.unit.run_folder_samples import (
    HEADER,
    event_row,
    write_csv,
    write_json,
    write_phase1,
    write_phase2,
)

EVENTS = "backtracking_events.csv"


def _line(**changes: object) -> str:
    row = event_row(0, 0) | changes
    return ",".join(f'"{row[name]}"'.replace('"is 0, "or so""', "0") for name in HEADER)


def _read(folder: Path, *lines: str | bytes) -> RunFolder:
    folder.mkdir(exist_ok=True)
    content = [line if isinstance(line, bytes) else line.encode() for line in (",".join(HEADER), *lines)]
    (folder / EVENTS).write_bytes(b"\n".join(content) + b"\n")
    return read_run_folder(folder)


def test_a_whole_phase_1_run_is_read(tmp_path: Path) -> None:
    run = read_run_folder(write_phase1(tmp_path / "run"))
    assert run.run_id == "phase_one"
    assert run.events is not None
    assert len(run.events) == 120
    assert run.selected == {"attention": (1, 0), "mlp": (0,)}
    assert run.unreadable == []
    assert run.absent == ["subset_sweep_results.csv", "scale_sweep_results.csv"]
    quoted = next(event for event in run.events if event.example_id == "7")
    assert quoted.predicted_answer == 'is 7, "or so"'
    figures = {(figure.file, figure.entry, figure.measure): figure.value for figure in run.figures}
    assert figures["ablation_importance.csv", "attention.1", "delta_wait_logit_mean"] == -1.5
    assert ("ablation_importance.csv", "attention.1", "delta_wait_logit_std") not in figures


@pytest.mark.parametrize("missing", FILES)
def test_any_file_may_be_missing(tmp_path: Path, missing: str) -> None:
    folder = write_phase2(write_phase1(tmp_path / "run"))
    for place in (folder, folder / "analysis"):
        (place / missing).unlink(missing_ok=True)
    run = read_run_folder(folder)
    assert run.absent == [missing]
    assert run.unreadable == []


def test_files_may_lie_in_the_folder_itself(tmp_path: Path) -> None:
    nested = read_run_folder(write_phase1(tmp_path / "nested"))
    for path in (tmp_path / "nested" / "analysis").iterdir():
        path.rename(tmp_path / "nested" / path.name)
    flat = read_run_folder(tmp_path / "nested")
    assert flat.events == nested.events
    assert flat.figures == nested.figures


def test_a_byte_order_mark_and_carriage_returns_change_nothing(tmp_path: Path) -> None:
    path = write_phase1(tmp_path / "run") / "analysis" / EVENTS
    plain = read_run_folder(tmp_path / "run").events
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n").replace(b"\r\r", b"\r"))
    assert read_run_folder(tmp_path / "run").events == plain


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (_line(completion_tokens="1e999"), "completion_tokens is '1e999', which is no whole number"),
        (_line(completion_tokens="9" * 400), "and 360 more characters, which is no whole number"),
        (_line(completion_tokens="99999999999"), "outside 0 to 2147483647"),
        (_line(sample_id="-2"), "sample_id is '-2', outside 0 to 2147483647"),
        (_line(sample_id=""), "sample_id is empty"),
        (_line(has_backtracking_strict="maybe"), "has_backtracking_strict is 'maybe', which is neither True nor False"),
        (_line(variant="a\x00b"), "variant holds a NUL byte"),
        (_line(variant="x" * 500), "variant has 500 characters"),
        (_line(variant="\u202eabc"), "variant holds a character that cannot be seen"),
        (b"\xff\xfe" + _line().encode()[2:], "no CSV row|no UTF-8|which is no whole number"),
        (_line(onset_phrase="Wait").encode().replace(b"Wait", b"W\xffit"), "holds bytes that are no UTF-8"),
        ("1,2,3", "it has 3 values where there are 17 columns"),
        ('0,0,"never closed', "it is no CSV row"),
        (f"{'x' * 200_000}", "it is no CSV row"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_the_rest_goes_on(
    tmp_path: Path, line: str | bytes, reason: str
) -> None:
    run = _read(tmp_path / "run", _line(sample_id=7), line, _line(sample_id=8))
    assert run.events is not None
    assert [event.sample_id for event in run.events] == [7, 8]
    (left_out,) = run.unreadable
    assert (left_out.file, left_out.place) == (EVENTS, "line 3")
    assert any(part in left_out.reason for part in reason.split("|"))
    assert len(left_out.reason) < 400


def test_a_duplicate_is_taken_once_and_a_contradiction_not_at_all(tmp_path: Path) -> None:
    same, other = _line(sample_id=1), _line(sample_id=2, is_correct="True")
    run = _read(tmp_path / "run", same, same, other, _line(sample_id=2, is_correct="False"), _line(sample_id=3))
    assert run.events is not None
    assert [event.sample_id for event in run.events] == [1, 3]
    assert [entry.place for entry in run.unreadable] == ["line 3", "line 4", "line 5"]
    assert "the same content at line 2" in run.unreadable[0].reason
    assert "other content at line 4" in run.unreadable[2].reason


def test_lines_are_counted_through_values_of_several_lines(tmp_path: Path) -> None:
    run = _read(tmp_path / "run", _line(onset_phrase="Hold\non"), _line(sample_id="x"))
    assert [entry.place for entry in run.unreadable] == ["line 4"]


def _refusals() -> list[tuple[str, bytes, str]]:
    return [
        (EVENTS, b"", "is empty or no CSV file"),
        (EVENTS, b"a,b\n1,2\n", "column example_id, sample_id, variant, condition, has_backtracking_strict is missing"),
        (EVENTS, b"\xff\xfea\x00", "is UTF-16"),
        (EVENTS, f"{','.join(HEADER)}\n1,2\n".encode(), "none of its rows can be read, the first is line 2"),
        (EVENTS, f"{','.join((*HEADER, 'variant'))}\n".encode(), "column variant is named twice"),
        (EVENTS, (",".join(HEADER) + "\n" + "x\n" * 2000).encode(), "more than 1,000 rows cannot be read"),
        ("metrics_v2.json", b"{", "is no JSON file"),
        ("metrics_v2.json", b"[1]", "holds no JSON object but a list"),
        ("metrics_v2.json", b'{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("metrics_v2.json", b'{"a":' * 100_000, "is no JSON file"),
        ("meta.json", b'{"run_id": "../../etc"}', "is no run id"),
        ("meta.json", b'{"run_id": ""}', "is no run id"),
    ]


@pytest.mark.parametrize(("name", "content", "message"), _refusals(), ids=lambda value: str(value)[:20])
def test_a_file_of_something_else_refuses_the_folder(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    folder = write_phase1(tmp_path / "run")
    path = folder / name if name == "meta.json" else folder / "analysis" / name
    path.write_bytes(content)
    with pytest.raises(RunFolderError) as error:
        read_run_folder(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_files_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no file of a run"):
        read_run_folder(tmp_path)
    with pytest.raises(RunFolderError, match="is no folder"):
        read_run_folder(tmp_path / "absent")


def test_two_files_of_one_name_that_differ_are_refused(tmp_path: Path) -> None:
    folder = write_phase1(tmp_path / "run")
    write_json(folder / "selected_layers.json", {"attn": [2], "mlp": []})
    with pytest.raises(RunFolderError, match="which of them is right cannot be told"):
        read_run_folder(folder)


def test_json_figures_that_are_none_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "summary_metrics.json"
    deep = '{"x":' * 20 + "1" + "}" * 20
    path.write_text(
        f'{{"accuracy": 1e999, "total_samples": {"9" * 5000}, "correct": NaN, "unknown_count": 3, "d": {deep}}}'
    )
    run = read_run_folder(tmp_path)
    assert [(figure.measure, figure.value) for figure in run.figures] == [("unknown_count", 3.0)]
    assert {entry.place.split(".")[0] for entry in run.unreadable} == {"accuracy", "total_samples", "correct", "d"}


@pytest.mark.parametrize("content", [{"attn": "all"}, {"attn": [1, 1]}, {"attn": [-1]}, {"attn": [1.5]}, {"mlp": []}])
def test_a_selection_that_is_none_is_left_out(tmp_path: Path, content: object) -> None:
    write_json(tmp_path / "selected_layers.json", content)
    run = read_run_folder(tmp_path)
    assert run.selected is None
    assert len(run.unreadable) == 1


def test_a_published_row_of_the_same_key_is_left_out(tmp_path: Path) -> None:
    row = {"variant": "a", "total": 4, "backtracking_rate": 0.5}
    write_csv(tmp_path / "formatting_summary.csv", [row, {**row, "backtracking_rate": 0.6}])
    run = read_run_folder(tmp_path)
    assert [figure.value for figure in run.figures] == [4.0, 0.5]
    assert str(run.unreadable[0]) == "formatting_summary.csv, line 3: a stands already at line 2"


def _mutate(draw: Callable[[st.SearchStrategy[int]], int], content: bytes) -> bytes:
    at = draw(st.integers(0, len(content)))
    return content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + draw(st.integers(0, 2)) :]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(FILES))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path: Path, data: st.DataObject, name: str) -> None:
    folder = write_phase2(write_phase1(tmp_path / "run"))
    path = next(place / name for place in (folder / "analysis", folder) if (place / name).is_file())
    content = path.read_bytes()
    if data.draw(st.booleans()):
        content = data.draw(st.binary(max_size=200))
    else:
        for _ in range(data.draw(st.integers(1, 5))):
            content = _mutate(data.draw, content)
    path.write_bytes(content)
    with bounded():
        try:
            run = read_run_folder(folder)
        except RunFolderError as error:
            assert "\n" not in str(error)
        else:
            assert len(run.events or ()) <= 121
            json.dumps([figure.value for figure in run.figures], allow_nan=False)


def test_many_unclosed_quotes_are_refused_in_bounded_time(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_text(",".join(HEADER) + "\n" + '"\n' * 50_000 + "x\n")
    with bounded(), pytest.raises(RunFolderError):
        read_run_folder(tmp_path)


def test_the_builder_writes_what_the_study_wrote(tmp_path: Path) -> None:
    path = write_phase1(tmp_path / "run") / "analysis" / EVENTS
    with path.open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == HEADER
