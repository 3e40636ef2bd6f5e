"""Making completions durable: interruptions, damage, changed inputs and other processes cost nothing that is done."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest

from backtracking_assets.assets.generating import Generation, ensure_completions
from backtracking_assets.assets.loaded import prompts
from backtracking_assets.assets.memory_planning import plan_of_chunk
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.progress import Progress
from backtracking_assets.errors import ProblemFileError
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.models import decoding, generation
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import read_archive
from backtracking_assets.storage.journal import finished_chunks
from backtracking_assets.storage.rows import Key, keys_of
from backtracking_assets_tests.integration.processes import finish, replace_environment, start
from backtracking_assets_tests.integration.studies import Study, content, make_study

CELL = Cell("both_0", 0.0)
Keys = list[list[Key]]


@pytest.fixture
def study(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Study]:
    made = make_study(tmp_path / "study", tiny_checkpoint)
    with made.active():
        yield made


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Keys:
    """The keys of every batch that the engine was asked for, in order; the engine works as ever."""
    batches: Keys = []
    _around_engine(monkeypatch, lambda requests: batches.append([(one.problem_id, one.sample_id) for one in requests]))
    return batches


def _around_engine(patch: pytest.MonkeyPatch, before: Callable[[list[generation.Request]], None]) -> None:
    engine = generation.generate

    def observed(model, requests, *arguments, **options):
        before(requests)
        return engine(model, requests, *arguments, **options)

    patch.setattr(generation, "generate", observed)


def make(opened: OpenExperiment, run_id: str = "run", **options) -> Generation:
    return ensure_completions(opened, CELL, run_id=run_id, log=lambda message: None, **options)


def make_one_chunk(opened: OpenExperiment, interruption: type[BaseException] = RuntimeError) -> None:
    """Interrupt the run `first` when its second chunk is about to be generated."""
    calls = count()

    def interrupt_second(requests: list[generation.Request]) -> None:
        if next(calls) == 1:
            raise interruption("interrupted")

    with pytest.MonkeyPatch.context() as patch:
        _around_engine(patch, interrupt_second)
        with pytest.raises(interruption):
            make(opened, "first")


def fingerprint_of(opened: OpenExperiment) -> str:
    return opened.condition(CELL).fingerprint


def uninterrupted(home: Path, checkpoint: Path, **changes) -> pa.Table:
    """The completions of the same experiment in a home where nothing went wrong."""
    study = make_study(home, checkpoint)
    with study.active():
        opened = study.opened(**changes)
        make(opened)
        return content(study.layout, fingerprint_of(opened))


def made_by(study: Study, fingerprint: str) -> dict[Key, str]:
    """The run that generated each completion."""
    rows = queries.completions(study.layout, fingerprint)
    return dict(zip(keys_of(rows), rows["run_id"].to_pylist(), strict=True))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_interruption_costs_the_chunk_in_flight_and_no_other(
    study: Study, tmp_path: Path, tiny_checkpoint: Path, generated: Keys, interruption: type[BaseException]
) -> None:
    opened = study.opened()
    fingerprint, planned = fingerprint_of(opened), opened.keys()
    make_one_chunk(opened, interruption)
    # Four of six are durable, in a file of their own; the database is not touched before the condition is whole.
    (chunk,) = finished_chunks(study.layout, fingerprint).values()
    assert set(keys_of(chunk)) == set(planned[:4])
    assert queries.completion_counts(study.layout) == {}
    assert generated == [planned[:4]]

    made = make(study.opened(), "second")
    assert generated == [planned[:4], planned[4:]]
    assert (made.n_completions, made.n_generated, made.linked) == (6, 2, False)
    assert made_by(study, fingerprint) == {
        **dict.fromkeys(planned[:4], "first"),
        **dict.fromkeys(planned[4:], "second"),
    }
    assert content(study.layout, fingerprint).equals(uninterrupted(tmp_path / "other", tiny_checkpoint))
    assert not study.layout.journal_of(fingerprint).exists()


def _generate_until_killed(environment: dict[str, str], file: str) -> None:
    replace_environment(environment)

    def kill_second(requests: list[generation.Request]) -> None:
        if len(requests) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    _around_engine(pytest.MonkeyPatch(), kill_second)
    make(OpenExperiment(load_experiment(file)), "killed")


def test_a_killed_process_leaves_its_finished_chunks_and_no_lock(study: Study, generated: Keys) -> None:
    assert finish(start(_generate_until_killed, study.environment, str(study.file))) == -9
    made = make(study.opened(), "second")
    assert made.n_generated == 2
    assert generated == [study.opened().keys()[4:]]


KEPT = {"save_seconds": 0}


def _generate_with_a_fault(environment: dict[str, str], file: str) -> None:
    replace_environment(environment)
    make(OpenExperiment(load_experiment(file)), "killed")


def kill_within_first_chunk(study: Study, **changes) -> OpenExperiment:
    """Have a process die after five decode steps of its first chunk; the experiment."""
    opened = study.opened(generation=KEPT, **changes)
    environment = {**study.environment, "BACKTRACKING_FAULT": "progress in place#6"}
    assert finish(start(_generate_with_a_fault, environment, str(study.file))) == -9
    return opened


def test_a_chunk_that_a_killed_process_has_begun_goes_on_where_it_was(
    study: Study, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = kill_within_first_chunk(study)
    steps: list[int] = []
    step = decoding.decode_step

    def counted(model, tokens, *arguments):
        steps.append(len(tokens))
        return step(model, tokens, *arguments)

    monkeypatch.setattr(decoding, "decode_step", counted)
    told: list[str] = []
    ensure_completions(study.opened(generation=KEPT), CELL, run_id="second", log=told.append)
    resumed, fingerprint = list(steps), fingerprint_of(opened)
    assert [line for line in told if "goes on at step 5 of at most 11, 4 completions at once." in line]
    assert content(study.layout, fingerprint).equals(uninterrupted(tmp_path / "other", tiny_checkpoint))
    assert len(resumed) == len(steps) - len(resumed) - 5
    assert not study.layout.journal_of(fingerprint).exists()


def test_a_chunk_whose_prompts_have_changed_begins_anew(study: Study) -> None:
    opened = kill_within_first_chunk(study)
    _change_question(study, opened)
    told: list[str] = []
    changed = study.opened(generation=KEPT)
    ensure_completions(changed, CELL, run_id="second", log=told.append)
    assert not [line for line in told if "goes on" in line]
    (reason,) = study.layout.set_aside.glob("*.reason.txt")
    assert "made with another prompt" in reason.read_text(encoding="utf-8")
    asked = queries.completions(study.layout, fingerprint_of(changed)).to_pylist()
    assert all(row["prompt_sha256"] == prompts(changed)[row["problem_id"]].sha256 for row in asked)


def test_a_chunk_larger_than_the_memory_is_decoded_in_planned_batches(study: Study) -> None:
    whole = plan_of_chunk(study.opened(), "cpu", study.opened().keys()[:4])
    gib = (whole.n_bytes(3) + 1) / 2**30
    told: list[str] = []
    opened = study.opened(generation={"memory_gib": gib})
    ensure_completions(opened, CELL, run_id="run", log=told.append)
    (line,) = [line for line in told if "completions a chunk in" in line]
    assert line.startswith("4 completions a chunk in 2 batches of 2: ")
    rows = queries.completions(study.layout, fingerprint_of(opened))["batch_rows"].to_pylist()
    assert rows == [2] * 6


def test_a_finished_condition_is_linked_without_the_engine(study: Study, generated: Keys) -> None:
    make(study.opened(), "first")
    generated.clear()
    again = make(study.opened(), "second")
    assert (again.n_completions, again.n_generated, again.linked, again.device) == (6, 0, True, None)
    assert generated == []
    assert set(made_by(study, fingerprint_of(study.opened())).values()) == {"first"}


def test_progress_counts_durable_completions(study: Study) -> None:
    told: list[Progress] = []
    make(study.opened(), on_progress=told.append)
    assert [(progress.done, progress.total) for progress in told] == [(0, 6), (4, 6), (6, 6)]
    assert told[-1].generated == 6
    assert told[-1].tokens == sum(
        queries.completions(study.layout, fingerprint_of(study.opened()))["n_tokens"].to_pylist()
    )
    assert str(told[-1]).startswith("6 of 6 completions, ")


def test_a_damaged_chunk_is_set_aside_and_generated_anew(study: Study, generated: Keys) -> None:
    opened = study.opened()
    planned = opened.keys()
    make_one_chunk(opened)
    (chunk,) = study.layout.journal_of(fingerprint_of(opened)).glob("*.parquet")
    chunk.write_bytes(chunk.read_bytes()[:-20])
    generated.clear()
    assert make(study.opened()).n_generated == 6
    assert generated == [planned[:4], planned[4:]]
    assert [path.name for path in study.layout.set_aside.glob("*.parquet")] == [
        f"journal-{fingerprint_of(opened)}-{chunk.name}"
    ]


def test_a_database_that_was_removed_is_filled_from_the_archive(study: Study, generated: Keys) -> None:
    opened = study.opened()
    make(opened, "first")
    before = queries.completions(study.layout, fingerprint_of(opened))
    study.layout.database.unlink()
    generated.clear()
    assert make(study.opened(), "second").linked
    assert generated == []
    assert queries.completions(study.layout, fingerprint_of(opened)).equals(before)


def _change_question(study: Study, opened: OpenExperiment) -> str:
    """Give the first problem that is asked another text; its id."""
    problem = next(iter(opened.problems.values()))
    text = study.problems.read_text(encoding="utf-8")
    assert f'"{problem.question}"' in text
    study.problems.write_text(text.replace(f'"{problem.question}"', f'"Say {problem.question}"'), encoding="utf-8")
    return problem.problem_id


def test_a_changed_question_under_the_same_id_is_refused(study: Study, generated: Keys) -> None:
    opened = study.opened()
    make(opened, "first")
    cells = queries.cells(study.layout)
    unchanged = study.problems.read_text(encoding="utf-8")
    problem_id = _change_question(study, opened)
    generated.clear()
    with pytest.raises(ProblemFileError, match=f"Problem '{problem_id}' has another text now") as refused:
        make(study.opened(), "second")
    assert str(study.layout.archive_of(fingerprint_of(opened))) in str(refused.value)
    assert generated == []
    assert queries.cells(study.layout).equals(cells)

    study.problems.write_text(unchanged, encoding="utf-8")
    assert make(study.opened(), "third").linked


def test_a_changed_question_is_refused_before_anything_is_generated(study: Study, generated: Keys) -> None:
    make(study.opened(), "first")
    unchanged = study.problems.read_text(encoding="utf-8")
    _change_question(study, study.opened())
    generated.clear()
    more = {"samples": 3}
    with pytest.raises(ProblemFileError, match="has another text now"):
        make(study.opened(problems=more), "second")
    assert generated == []
    # Completions of the changed text would stand in the archive and keep the old text out as well.
    study.problems.write_text(unchanged, encoding="utf-8")
    assert make(study.opened(problems=more), "third").n_generated == 3


def test_a_changed_question_in_unfinished_work_is_refused(study: Study) -> None:
    opened = study.opened()
    make_one_chunk(opened)
    problem_id = _change_question(study, opened)
    with pytest.raises(ProblemFileError, match=f"Problem '{problem_id}' has another text now") as refused:
        make(study.opened())
    assert str(study.layout.journal_of(fingerprint_of(opened))) in str(refused.value)


def test_removing_the_archive_as_the_message_says_makes_the_changed_problem_anew(study: Study) -> None:
    opened = study.opened()
    make(opened, "first")
    problem_id = _change_question(study, opened)
    study.layout.archive_of(fingerprint_of(opened)).unlink()
    changed = study.opened()
    assert make(changed, "second").n_generated == 6
    stored = queries.completions(study.layout, fingerprint_of(changed))
    assert stored.equals(read_archive(study.layout, fingerprint_of(changed)))
    assert set(made_by(study, fingerprint_of(changed)).values()) == {"second"}
    text = prompts(changed)[problem_id].text
    assert text.startswith("Q: Say ")
    asked = {row["problem_id"]: row["prompt_sha256"] for row in stored.to_pylist()}
    assert asked[problem_id] == sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "more", [{"count": 4}, {"samples": 3}, {"count": 5, "samples": 4}], ids=["problems", "samples", "both"]
)
def test_more_work_keeps_what_is_there_and_adds_the_rest(study: Study, generated: Keys, more: dict[str, int]) -> None:
    opened = study.opened()
    make(opened, "first")
    before = content(study.layout, fingerprint_of(opened))
    generated.clear()
    grown = study.opened(problems=more)
    made = make(grown, "second")
    before_keys, all_keys = opened.keys(), grown.keys()
    new = [key for key in all_keys if key not in before_keys]
    assert [key for batch in generated for key in batch] == new
    assert (made.n_generated, made.n_completions) == (len(new), len(grown.keys()))
    runs = made_by(study, fingerprint_of(opened))
    assert runs == {**dict.fromkeys(opened.keys(), "first"), **dict.fromkeys(new, "second")}
    after = content(study.layout, fingerprint_of(opened)).to_pylist()
    assert [row for row in after if runs[row["problem_id"], row["sample_id"]] == "first"] == before.to_pylist()


def test_appended_problems_displace_as_few_as_possible(study: Study) -> None:
    opened = study.opened()
    make(opened, "first")
    with study.problems.open("a", encoding="utf-8") as file:
        file.write('{"id": "appended", "question": "7 + 8", "answer_value": "15"}\n')
    grown = study.opened(problems={"count": 6})
    assert make(grown, "second").n_generated == len(grown.keys()) - len(opened.keys())


def test_fewer_problems_half_way_are_planned_anew_around_what_is_finished(study: Study, generated: Keys) -> None:
    more = study.opened(problems={"count": 5})
    first_chunk = more.keys()[:4]
    make_one_chunk(more)
    generated.clear()
    # The plan's second chunk holds the third and the fourth problem: it can no longer be made as planned.
    study.problems.write_text(
        "\n".join(
            line
            for line in study.problems.read_text(encoding="utf-8").splitlines()
            if not any(f'"{problem_id}"' in line for problem_id in list(more.problems)[3:])
        ),
        encoding="utf-8",
    )
    fewer = study.opened(problems={"count": 3})
    assert make(fewer, "second").n_completions == 6
    assert [key for batch in generated for key in batch] == fewer.keys()[4:]
    runs = made_by(study, fingerprint_of(fewer))
    assert runs == {**dict.fromkeys(first_chunk, "first"), **dict.fromkeys(fewer.keys()[4:], "second")}


def _generate_and_report(environment: dict[str, str], file: str, run_id: str, report: str) -> None:
    replace_environment(environment)
    # Long enough that the other process is there before the first chunk is done.
    _around_engine(pytest.MonkeyPatch(), lambda requests: time.sleep(0.5))
    made = make(OpenExperiment(load_experiment(file)), run_id)
    Path(report).write_text(str(made.n_generated), encoding="utf-8")


def test_two_processes_generate_a_condition_once(study: Study, tmp_path: Path) -> None:
    reports = {name: tmp_path / f"{name}.txt" for name in ("one", "two")}
    both = [
        start(_generate_and_report, study.environment, str(study.file), name, str(report))
        for name, report in reports.items()
    ]
    assert [finish(process) for process in both] == [0, 0]
    counts = {name: int(report.read_text(encoding="utf-8")) for name, report in reports.items()}
    assert sorted(counts.values()) == [0, 6]
    winner = max(counts, key=lambda name: counts[name])
    opened = study.opened()
    assert made_by(study, fingerprint_of(opened)) == dict.fromkeys(opened.keys(), winner)
    assert not study.layout.journal_of(fingerprint_of(opened)).exists()
