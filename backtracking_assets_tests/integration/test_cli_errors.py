"""What a person can get wrong: exit code 2, one sentence on stderr, nothing half-written; and `doctor`, `--help`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backtracking_assets.errors import ExperimentError
from backtracking_assets_tests.integration.processes import Finished, backtracking
from backtracking_assets_tests.integration.studies import Study, make_study

_TOKEN = "hf_aMarkedValueThatMustNotShow"


@pytest.fixture
def study(tmp_path: Path, tiny_checkpoint: Path) -> Study:
    return make_study(tmp_path / "study", tiny_checkpoint)


@dataclass(frozen=True)
class Mistake:
    """A command that cannot do what it is asked, and what its sentence must name."""

    arguments: Callable[[Study], list[str]]
    named: tuple[str, ...]
    prepare: Callable[[Study], Any] = lambda study: None
    environment: Callable[[Study], dict[str, str]] = field(default=lambda study: study.environment)


def _sweep(*options: str) -> Callable[[Study], list[str]]:
    return lambda study: ["sweep", str(study.file), *options]


def _in_the_way(study: Study) -> str:
    file = study.home / "a_file"
    file.touch()
    return str(file)


MISTAKES = {
    "unknown experiment": Mistake(lambda study: ["sweep", "organizm"], ("'organizm'", "did you mean organism")),
    "unknown experiment in status": Mistake(lambda study: ["status", "organizm"], ("did you mean organism",)),
    "unknown key": Mistake(
        _sweep(),
        ("tiny.yaml", "temprature", "did you mean temperature"),
        lambda s: s.experiment(sampling={"temprature": 1}),
    ),
    "not YAML": Mistake(_sweep(), ("tiny.yaml", "not valid YAML"), lambda s: s.file.write_text("name: [", "utf-8")),
    "unknown subset": Mistake(_sweep("--layer-subset", "attn_2"), ("'attn_2'", "did you mean attn_1", "both_0")),
    "unknown scale": Mistake(_sweep("--scale", "0.3"), ("0.3", "scales: 0, 1")),
    "no such cell in the plan": Mistake(
        _sweep("--layer-subset", "random_1_of_attn_1", "--scale", "1"), ("No cell of the plan", "tiny.yaml")
    ),
    "unknown job": Mistake(_sweep("--job", "full_studdy"), ("'full_studdy'", "did you mean full_study?")),
    "missing checkpoint": Mistake(
        _sweep(), ("nowhere",), lambda s: s.experiment(model={"path": str(s.home / "nowhere")})
    ),
    "missing checkpoint in status": Mistake(
        lambda s: ["status", str(s.file)], ("nowhere",), lambda s: s.experiment(model={"path": str(s.home / "nowhere")})
    ),
    "another depth": Mistake(_sweep(), ("2", "3"), lambda s: s.experiment(model={"n_layers": 3})),
    "missing problem file": Mistake(_sweep(), ("problems.jsonl",), lambda s: s.problems.unlink()),
    "malformed problem file": Mistake(
        _sweep(),
        ("problems.jsonl, line 3",),
        lambda s: s.problems.write_text(s.problems.read_text().replace('"p2"', "p2")),
    ),
    "too few problems": Mistake(_sweep(), ("holds 5 problems", "9"), lambda s: s.experiment(problems={"count": 9})),
    "no CUDA device": Mistake(
        _sweep(), ("device cuda", "no CUDA device"), lambda s: s.experiment(model={"device": "cuda"})
    ),
    "longer than the model knows": Mistake(
        _sweep(),
        ("the model knows 512 (max_position_embeddings)", "nothing was generated", "sampling.max_new_tokens"),
        lambda s: s.experiment(sampling={"max_new_tokens": 600}),
    ),
    "too little memory": Mistake(
        _sweep(),
        ("Not even one completion fits", "nothing was generated", "raise generation.memory_gib"),
        lambda s: s.experiment(generation={"memory_gib": 0.00001}),
    ),
    "more memory than there is": Mistake(
        _sweep(),
        ("generation.memory_gib is 1e+06 and cpu has",),
        lambda s: s.experiment(generation={"memory_gib": 1e6}),
    ),
    "outputs in the way": Mistake(
        _sweep(),
        ("a_file is not a folder", "BACKTRACKING_HOME"),
        environment=lambda s: {**s.environment, "BACKTRACKING_HOME": _in_the_way(s)},
    ),
    "Dagster's folder in the way": Mistake(
        _sweep(), ("a_file", "DAGSTER_HOME"), environment=lambda s: {**s.environment, "DAGSTER_HOME": _in_the_way(s)}
    ),
}


def _make(mistake: Mistake, study: Study) -> None:
    # A study loads the file that it writes; here the command is to refuse it.
    with suppress(ExperimentError):
        mistake.prepare(study)


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_in_one_sentence_and_writes_nothing(mistake: Mistake, study: Study, tmp_path: Path) -> None:
    _make(mistake, study)
    environment = {**mistake.environment(study), "CUDA_VISIBLE_DEVICES": ""}
    found = backtracking(*mistake.arguments(study), environment=environment, folder=tmp_path)
    assert found.code == 2
    assert found.stdout == ""
    assert found.stderr.startswith("Error: ")
    assert found.stderr.count("\n") == 1
    assert found.stderr.endswith(".\n")
    for part in mistake.named:
        assert part in found.stderr
    written = [path for path in study.home.rglob("*") if path.suffix in (".duckdb", ".parquet", ".html", ".wal")]
    assert written == []


def test_a_mistake_in_an_option_is_refused_by_the_command_line(study: Study, tmp_path: Path) -> None:
    found = backtracking("sweep", "--scale", "half", environment=study.environment, folder=tmp_path)
    assert found.code == 2
    assert "Invalid value for '--scale'" in found.stderr
    assert "Traceback" not in found.stderr


def _shell(*arguments: str, environment: dict[str, str]) -> Finished:
    """The command in an interpreter of its own, which imports what it needs by itself."""
    code = "from backtracking_assets.cli import main; main()"
    environment = {"PATH": os.environ["PATH"], **environment}
    command = [sys.executable, "-c", code, *arguments]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return Finished(found.returncode, found.stdout, found.stderr)


def test_help_names_every_command_and_works_without_an_environment() -> None:
    found = _shell("--help", environment={})
    assert found.code == 0
    for command in ("sweep", "status", "report", "ui", "doctor", "train-organism"):
        assert command in found.stdout
    assert found.stderr == ""


def test_a_sweep_works_without_a_home_folder(study: Study) -> None:
    nowhere = Path(_in_the_way(study)) / "home"  # not even root can make it
    options = ("sweep", str(study.file), "--layer-subset", "attn_1", "--scale", "1.0")
    found = _shell(*options, environment={**study.environment, "HOME": str(nowhere)})
    assert found.code == 0, found.stderr
    assert "0 done before, 1 to do." in found.stdout
    assert found.stderr == ""
    assert (study.layout.reports / "phase2_report.html").is_file()


def test_doctor_tells_the_facts_and_never_the_token(study: Study, tmp_path: Path) -> None:
    environment = {**study.environment, "HF_TOKEN": _TOKEN}
    found = backtracking("doctor", str(study.file), "--json", environment=environment, folder=tmp_path)
    assert found.code == 0, found.stderr
    facts = json.loads(found.stdout)
    assert set(facts) == {
        *("host", "system", "cpu", "cpu_cores", "memory_gib", "memory_free_gib", "disk_free_gib", "outputs"),
        *("gpus", "cuda_of_torch", "driver", "versions", "hub_token", "experiment", "checkpoint", "problems"),
        *("memory", "ready"),
    }
    assert facts["hub_token"] == "set"
    assert facts["outputs"] == str(study.home / "runs")
    assert {"python", "torch", "transformers", "dagster", "duckdb"} <= set(facts["versions"])
    assert facts["checkpoint"]["loads"]
    assert facts["checkpoint"]["layers"] == 2
    assert facts["problems"] == {"usable": True, "count": 3, "digest": facts["problems"]["digest"]}
    assert facts["memory"]["fits"]
    assert facts["memory"]["rows"] == 4
    assert facts["memory"]["plan"].startswith("4 completions a chunk in 1 batch of 4: ")
    assert facts["ready"]
    table = backtracking("doctor", str(study.file), environment=environment, folder=tmp_path)
    assert table.stdout.endswith("Ready.\n")
    assert "4 completions a chunk in 1 batch of 4: " in table.stdout
    files = [path.read_bytes() for path in study.home.rglob("*") if path.is_file()]
    said = [found.stdout, found.stderr, table.stdout, table.stderr]
    assert not any(_TOKEN in text for text in said)
    assert not any(_TOKEN.encode() in content for content in files)


def test_doctor_says_what_keeps_the_experiment_from_running(study: Study, tmp_path: Path) -> None:
    study.experiment(model={"path": str(study.home / "nowhere")})
    found = backtracking("doctor", str(study.file), "--json", environment=study.environment, folder=tmp_path)
    assert found.code == 1
    facts = json.loads(found.stdout)
    assert facts["hub_token"] == "not set"
    assert not facts["ready"]
    assert "nowhere" in facts["checkpoint"]["why"]
    assert facts["problems"]["usable"]
