"""Problem files: reading them, refusing what is malformed, and drawing the problems of an experiment."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from backtracking_assets.errors import ProblemFileError
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_sections import HubDataset, ProblemSource
from backtracking_assets.records import Problem

_MOST_KEYS, _LONGEST = 20, 60
"""Keys of a row that a message names, and characters of a key or an id that it shows."""


def load_problems(experiment: Experiment, *, download: bool = True) -> tuple[Problem, ...]:
    """The problems of an experiment, in the order in which they are asked.

    A problem is drawn by the hash of (seed, id): of a file to which problems are appended, the draw displaces as few as
    possible, and never depends on the order of the lines.

    Args:
        download: whether a data set that is not on this machine is fetched from the hub.

    Raises:
        ProblemFileError: the source is missing, malformed (the line is named), or holds too few problems.
    """
    source = experiment.problems
    place, problems = _all_problems(experiment, download)
    if len(problems) < source.count:
        # A prompt variant's experiment has the count of phase 1 in place of its own.
        of_phase1 = experiment.phase1 is not None and experiment.phase1.count == source.count
        asked = "phase1.count" if of_phase1 else "problems.count"
        raise ProblemFileError(
            f"{place}: it holds {len(problems)} problems and {asked} in {experiment.source} asks for "
            f"{source.count}; lower the count or add problems."
        )
    return draw(problems, source.count, source.seed)


def problems_of_means(experiment: Experiment, *, download: bool = True) -> tuple[Problem, ...]:
    """The problems that means are taken from: the next ones in the order of the draw, which the sweep does not ask.

    Raises:
        ProblemFileError: see `load_problems`.
    """
    source, wanted = experiment.problems, experiment.means.problems
    place, problems = _all_problems(experiment, download)
    if len(problems) < source.count + wanted:
        raise ProblemFileError(
            f"{place}: it holds {len(problems)} problems, and in {experiment.source} problems.count asks for "
            f"{source.count} and means.problems for {wanted} others; lower one of them or add problems."
        )
    return draw(problems, source.count + wanted, source.seed)[source.count :]


def _all_problems(experiment: Experiment, download: bool) -> tuple[str, tuple[Problem, ...]]:
    """All problems of an experiment's source, and what to call that."""
    source = experiment.problems
    if source.path is not None:
        path = experiment.resolve(source.path)
        place, rows = str(path), _jsonl_rows(path)
    else:
        assert source.hub is not None
        place, rows = f"data set {source.hub.dataset}", _hub_rows(source.hub, download)
    return place, tuple(_problems(rows, source, place))


def draw(problems: Iterable[Problem], count: int, seed: int) -> tuple[Problem, ...]:
    """The `count` problems with the lowest hash of (seed, id), in the order of that hash."""
    return tuple(sorted(problems, key=lambda problem: _rank(seed, problem.problem_id))[:count])


def _rank(seed: int, problem_id: str) -> bytes:
    return hashlib.sha256(f"{seed}\x00{problem_id}".encode()).digest()


def _problems(rows: Iterable[tuple[str, Mapping[str, Any]]], source: ProblemSource, place: str) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for where, row in rows:
        question = _text(row, source.question_field, where)
        answer = _text(row, source.answer_field, where)
        if source.answer_after is not None:
            _, mark, answer = answer.rpartition(source.answer_after)
            if not mark:
                raise ProblemFileError(
                    f"{where}: {source.answer_field} has no {source.answer_after!r} before its answer."
                )
            answer = answer.strip()
        if not answer:
            raise ProblemFileError(f"{where}: the answer in {source.answer_field} is empty.")
        if source.id_field is None:
            problem_id = hashlib.sha256(question.encode()).hexdigest()[:16]
        else:
            problem_id = _text(row, source.id_field, where)
        if problem_id in seen:
            raise ProblemFileError(f"{where}: the id {problem_id[:_LONGEST]!r} stands already at {seen[problem_id]}.")
        seen[problem_id] = where
        yield Problem(problem_id, question, answer)
    if not seen:
        raise ProblemFileError(f"{place}: it holds no problem.")


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if value is None:
        raise ProblemFileError(f"{where}: {field} is missing; its keys are {_keys(row)}.")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ProblemFileError(f"{where}: {field} must be text or a number, not {type(value).__name__}.")
    text = str(value).strip()
    if not text:
        raise ProblemFileError(f"{where}: {field} is empty.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ProblemFileError(f"{where}: {field} holds an invalid Unicode code point.") from None
    return text


def _keys(row: Mapping[str, Any]) -> str:
    """The keys of a row for a message, not more than fit into one."""
    names = [str(key)[:_LONGEST] for key in list(row)[:_MOST_KEYS]]
    return ", ".join(names + [f"and {len(row) - _MOST_KEYS} more"] * (len(row) > _MOST_KEYS)) or "none"


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ProblemFileError(
            f"There is no problem file {path}; check problems.path in the experiment file."
        ) from None
    except OSError as error:
        raise ProblemFileError(f"{path}: the file cannot be read: {error.strerror}.") from error
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ProblemFileError(f"{where}: it is not a JSON object ({error}).") from error
        if not isinstance(row, dict):
            raise ProblemFileError(f"{where}: it is not a JSON object but a {type(row).__name__}.")
        yield where, row


def _hub_rows(hub: HubDataset, download: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    arguments: dict[str, Any] = {
        "repo_id": hub.dataset,
        "repo_type": "dataset",
        "revision": hub.revision,
        "allow_patterns": [f"{hub.config}/{hub.split}-*.parquet"],
    }
    files: list[Path] = []
    with suppress(LocalEntryNotFoundError):
        files = _split_files(hub, Path(snapshot_download(**arguments, local_files_only=True)))
    if not files and not download:
        raise ProblemFileError(f"The data set {hub.dataset} is not on this machine yet; the first sweep downloads it.")
    if not files:
        try:
            files = _split_files(hub, Path(snapshot_download(**arguments)))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ProblemFileError(
                f"The data set {hub.dataset} could not be downloaded: {reason} "
                "Check the network and HF_TOKEN, or set problems.path to a JSONL file."
            ) from error
    if not files:
        raise ProblemFileError(
            f"The data set {hub.dataset} has no Parquet file {hub.config}/{hub.split}-*; check problems.hub."
        )
    for path in files:
        try:
            rows = pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ProblemFileError(f"{path}: the file is not readable as Parquet ({error}).") from error
        for number, row in enumerate(rows, start=1):
            yield f"{path.name}, row {number}", row


def _split_files(hub: HubDataset, folder: Path) -> list[Path]:
    """The Parquet files of a split in order; empty unless all are there that their names (`…-00000-of-00002`) count."""
    files = [path for path in sorted(folder.glob(f"{hub.config}/{hub.split}-*.parquet")) if path.is_file()]
    for path in files:
        count = re.search(r"-of-(\d+)$", path.stem)
        if count is not None and int(count[1]) != len(files):
            return []
    return files
