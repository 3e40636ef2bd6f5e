"""The real UI: its whole tree of processes, what it is asked through its own interface, and its sudden end."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_BACKFILL = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
_FROM_FAILURE = """
mutation($params: ReexecutionParams!) {
  reexecutePartitionBackfill(reexecutionParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
_STATUS = """
query($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status }
  }
}
"""
_RUNS = """
query { runsOrError(limit: 200) { ... on Runs { results { runId status tags { key value } } } } }
"""


@dataclass(frozen=True)
class Run:
    run_id: str
    status: str
    tags: Mapping[str, str]

    @property
    def partition(self) -> str | None:
        return self.tags.get("dagster/partition")


class Ui:
    """`backtracking ui` on a free port. Ends with its whole tree."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.port = _free_port()
        command = [sys.executable, "-c", "from backtracking_assets.cli import main; main()", "ui"]
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env={"PATH": os.environ["PATH"], **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._answers, 180, "the UI answers")

    def kill(self) -> int:
        """SIGKILL every process of the tree, as when the machine goes away; how many there were."""
        tree = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for process in tree:
            process.kill()
        psutil.wait_procs(tree, timeout=30)
        self._process.wait()
        return len(tree)

    def backfill(self, keys: Sequence[Sequence[str]], partitions: Sequence[str]) -> str:
        """Launch a backfill of these assets and partitions; its id."""
        params = {"assetSelection": [{"path": list(key)} for key in keys], "partitionNames": list(partitions)}
        return self._launched("launchPartitionBackfill", _BACKFILL, params)

    def relaunch_failed(self, backfill_id: str) -> str:
        """What the button for re-execution from failure does; the new backfill's id."""
        params = {"parentRunId": backfill_id, "strategy": "FROM_FAILURE"}
        return self._launched("reexecutePartitionBackfill", _FROM_FAILURE, params)

    def backfill_status(self, backfill_id: str) -> str:
        return self.ask(_STATUS, {"id": backfill_id})["partitionBackfillOrError"]["status"]

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        found = self.ask(_RUNS, {})["runsOrError"]["results"]
        return [Run(r["runId"], r["status"], {tag["key"]: tag["value"] for tag in r["tags"]}) for r in found]

    def ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": dict(variables)}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            document = json.load(answer)
        assert "errors" not in document, document["errors"]
        return document["data"]

    def _launched(self, name: str, mutation: str, params: Mapping[str, Any]) -> str:
        found = self.ask(mutation, {"params": dict(params)})[name]
        assert found["__typename"] == "LaunchBackfillSuccess", found
        return found["backfillId"]

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the UI has ended"
        try:
            locations = self.ask("query { repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }", {})
        except OSError:
            return False
        return bool(locations["repositoriesOrError"].get("nodes"))


@contextmanager
def running_ui(environment: Mapping[str, str], log: Path) -> Iterator[Ui]:
    """A UI that is killed at the end of the block if it still runs."""
    ui = Ui(environment, log)
    try:
        yield ui
    finally:
        if ui._process.poll() is None:
            ui.kill()


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something to hold; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
