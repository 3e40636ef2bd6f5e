"""What commands import before they do anything: a person waits for it. Modules are counted and not seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backtracking_assets_tests.integration.studies import make_study

_SLOW = {"dagster", "torch", "transformers", "matplotlib", "pandas", "scipy", "statsmodels", "sympy", "tokenizers"}
_PROGRAM = """
import json, sys
sys.argv = ["backtracking", *json.loads(sys.argv[1])]
from backtracking_assets.cli import app
app._leave = lambda code: None  # which would end the process before it says what it imported
app.main()
print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def imported(arguments: list[str], environment: dict[str, str]) -> set[str]:
    """The packages that a command imports."""
    command = [sys.executable, "-c", _PROGRAM, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "Error" not in done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def environment(tmp_path: Path, tiny_checkpoint: Path) -> dict[str, str]:
    study = make_study(tmp_path / "study", tiny_checkpoint)
    return {**study.environment, "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "STUDY": str(study.file)}


def test_help_imports_nothing_that_it_does_not_print(environment: dict[str, str]) -> None:
    found = imported(["--help"], environment)
    assert "typer" in found
    assert not found & {*_SLOW, "duckdb", "numpy", "pyarrow"}


def test_status_imports_no_model_no_statistics_and_no_dagster(environment: dict[str, str]) -> None:
    found = imported(["status", environment["STUDY"]], environment)
    assert "duckdb" in found
    assert not found & _SLOW


_THREADS = """
import os
from backtracking_assets.cli.environment import prepare_environment
prepare_environment()
import numpy as np
np.ones((300, 300)) @ np.ones((300, 300))
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="numpy takes one thread on one core")
@pytest.mark.parametrize(("wished", "n_threads"), [(None, 1), ("2", 2)])
def test_matrix_products_take_one_thread_unless_more_are_asked_for(
    environment: dict[str, str], wished: str | None, n_threads: int
) -> None:
    asked = {} if wished is None else {"OPENBLAS_NUM_THREADS": wished}
    command = [sys.executable, "-c", _THREADS]
    done = subprocess.run(command, env={**environment, **asked}, capture_output=True, text=True, check=True)
    assert int(done.stdout) == n_threads
