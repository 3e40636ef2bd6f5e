"""Problem files: drawing, and every way in which one can be malformed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking_assets.errors import ProblemFileError
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.problems import draw, load_problems
from backtracking_assets.records import Problem
from backtracking_assets_tests.tiny import experiment_document, write_experiment

GOOD = '{"id": "a", "question": "1 + 1", "answer_value": "2"}'


def load(tmp_path: Path, content: bytes, **source):
    path = tmp_path / "problems.jsonl"
    path.write_bytes(content)
    document = experiment_document(tmp_path, path)
    document["problems"] |= {"count": 1, **source}
    return load_problems(write_experiment(tmp_path / "e.yaml", document))


BAD = [
    (b"", "it holds no problem"),
    (b"\n\n", "it holds no problem"),
    (f"{GOOD}\n{{broken".encode(), "line 2: it is not a JSON object"),
    (f"{GOOD}\n[1]".encode(), "line 2: it is not a JSON object but a list"),
    (f"{GOOD}\n{GOOD}".encode(), "line 2: the id 'a' stands already at .*line 1"),
    (b'{"id": "a", "question": "1 + 1"}', "line 1: answer_value is missing; its keys are id, question"),
    (b'{"id": "a", "question": "1 + 1", "answer_value": null}', "line 1: answer_value is missing"),
    (b'{"id": "a", "question": "1 + 1", "answer_value": " "}', "line 1: answer_value is empty"),
    (b'{"id": "a", "question": "", "answer_value": "2"}', "line 1: question is empty"),
    (b'{"id": "a", "question": ["x"], "answer_value": "2"}', "line 1: question must be text or a number, not list"),
    (b'{"id": true, "question": "x", "answer_value": "2"}', "line 1: id must be text or a number, not bool"),
    (b'{"id": "a", "question": "\\ud800", "answer_value": "2"}', "line 1: question holds an invalid Unicode"),
    (b"\xff\xfe", "line 1: it is not a JSON object"),
    (b"[" * 100_000, "line 1: it is not a JSON object"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_malformed_files_are_refused_with_their_line(tmp_path: Path, content: bytes, message: str):
    with pytest.raises(ProblemFileError, match=message) as refused:
        load(tmp_path, content)
    assert "\n" not in str(refused.value)


def test_too_few_problems_are_refused(tmp_path: Path):
    with pytest.raises(ProblemFileError, match=r"it holds 1 problems and problems.count .* asks for 2"):
        load(tmp_path, GOOD.encode(), count=2)


def test_a_missing_file_is_refused(tiny_experiment):
    (tiny_experiment.problems.path or Path()).unlink()
    with pytest.raises(ProblemFileError, match="There is no problem file"):
        load_problems(tiny_experiment)


def test_the_answer_after_a_mark_is_taken(tmp_path: Path):
    row = {"question": "How many?", "answer": "6 #### of them\n#### 1,234"}
    (problem,) = load(tmp_path, json.dumps(row).encode(), id_field=None, answer_field="answer", answer_after="####")
    assert problem.answer == "1,234"
    assert len(problem.problem_id) == 16


def test_a_missing_mark_is_refused(tmp_path: Path):
    row = {"question": "How many?", "answer": "6"}
    with pytest.raises(ProblemFileError, match=r"line 1: answer has no '####' before its answer"):
        load(tmp_path, json.dumps(row).encode(), id_field=None, answer_field="answer", answer_after="####")


def some_problems(n: int) -> list[Problem]:
    return [Problem(f"p{i}", f"{i}", f"{i}") for i in range(n)]


def test_the_draw_ignores_the_order_of_lines_and_follows_the_seed():
    problems = some_problems(50)
    drawn = draw(problems, 10, seed=1)
    assert drawn == draw(reversed(problems), 10, seed=1)
    assert drawn != draw(problems, 10, seed=2)


@given(st.integers(1, 40), st.integers(0, 40), st.integers())
def test_appended_problems_displace_as_few_as_possible(count: int, appended: int, seed: int):
    before = set(draw(some_problems(60), count, seed))
    after = set(draw(some_problems(60 + appended), count, seed))
    newcomers = {problem for problem in after if int(problem.problem_id[1:]) >= 60}
    assert before - after == before - (after - newcomers)
    assert len(before - after) == len(newcomers)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_load_or_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    try:
        problems = load(tmp_path_factory.mktemp("fuzz"), content)
    except ProblemFileError as error:
        assert "\n" not in str(error).strip()
    else:
        assert len(problems) == 1


@pytest.fixture
def hub_snapshot(tmp_path: Path) -> Path:
    """A folder in the layout of a data set on the hub, which is out of reach in tests."""
    folder = tmp_path / "snapshot" / "main"
    folder.mkdir(parents=True)
    rows = [{"question": f"What is {i}?", "answer": f"It is so. #### {i}"} for i in range(200)]
    pq.write_table(pa.Table.from_pylist(rows[:150]), folder / "test-00000-of-00002.parquet")
    pq.write_table(pa.Table.from_pylist(rows[150:]), folder / "test-00001-of-00002.parquet")
    return tmp_path / "snapshot"


def hub_of(monkeypatch: pytest.MonkeyPatch, here: Path | None, after_download: Path | None) -> list[dict[str, Any]]:
    """Stand in for the hub: what is on this machine, and what a download gives; records what was asked."""
    asked: list[dict[str, Any]] = []

    def snapshot_download(**arguments: Any) -> str:
        asked.append(arguments)
        found = here if arguments.get("local_files_only") else after_download
        if found is None:
            raise LocalEntryNotFoundError("The hub cannot be reached.")
        return str(found)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("download", [True, False])
def test_a_hub_data_set_that_is_here_is_read_without_the_network(hub_snapshot: Path, monkeypatch, download: bool):
    asked = hub_of(monkeypatch, hub_snapshot, None)
    problems = load_problems(load_experiment("deepseek_r1_distill_qwen_1_5b"), download=download)
    assert len(problems) == 120
    assert all(problem.question == f"What is {problem.answer}?" for problem in problems)
    (local,) = asked
    assert local["local_files_only"]
    assert local["repo_id"] == "openai/gsm8k"
    assert local["repo_type"] == "dataset"
    assert local["allow_patterns"] == ["main/test-*.parquet"]


@pytest.mark.parametrize("here", ["nothing", "another split", "one file of two"])
def test_a_hub_data_set_that_is_not_whole_here_is_downloaded_if_it_may_be(
    hub_snapshot: Path, tmp_path: Path, monkeypatch, here: str
):
    local = tmp_path / "local"
    (local / "main").mkdir(parents=True)
    if here == "one file of two":
        shutil.copy(hub_snapshot / "main" / "test-00000-of-00002.parquet", local / "main")
    experiment = load_experiment("deepseek_r1_distill_qwen_1_5b")
    asked = hub_of(monkeypatch, None if here == "nothing" else local, hub_snapshot)
    with pytest.raises(ProblemFileError, match="is not on this machine yet; the first sweep downloads it"):
        load_problems(experiment, download=False)
    assert len(asked) == 1
    assert len(load_problems(experiment)) == 120
    assert [arguments.get("local_files_only", False) for arguments in asked[1:]] == [True, False]


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    hub_of(monkeypatch, None, None)
    with pytest.raises(
        ProblemFileError, match=r"could not be downloaded: The hub cannot be reached\. Check the network"
    ):
        load_problems(load_experiment("deepseek_r1_distill_qwen_1_5b"))


def test_a_hub_data_set_without_the_split_is_refused(tmp_path: Path, monkeypatch):
    hub_of(monkeypatch, None, tmp_path)
    with pytest.raises(ProblemFileError, match=r"has no Parquet file main/test-\*; check problems\.hub"):
        load_problems(load_experiment("deepseek_r1_distill_qwen_1_5b"))
