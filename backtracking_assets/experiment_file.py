"""Reading an experiment file: finding it by name, YAML, and errors that name the place."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from backtracking_assets.errors import ExperimentError, did_you_mean
from backtracking_assets.experiment import Experiment
from backtracking_assets.layer_subsets import FORMS
from backtracking_assets.places import PROJECT_ROOT

EXPERIMENTS_DIR = PROJECT_ROOT / "data" / "experiments"

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")
_MOST_BYTES = 1_000_000
"""PyYAML takes a second or so for as much."""
_MOST_PROBLEMS = 20
"""Problems of a file that one message names."""
_LONGEST_INPUT = 100
"""Characters of a value or a key that a message shows."""
# What PyYAML lets through where a value has the form of its type and not the content, or the nesting has no end.
_BAD_VALUES = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def experiment_names() -> tuple[str, ...]:
    """Names of the experiment files that ship with the project."""
    return tuple(sorted(path.stem for path in EXPERIMENTS_DIR.glob("*.yaml")))


def find_experiment(name_or_path: str) -> Path:
    """The file of an experiment, given its name in `data/experiments/` or a path.

    Raises:
        ExperimentError: nothing is there; the message offers the nearest names.
    """
    if _NAME.fullmatch(name_or_path) and (EXPERIMENTS_DIR / f"{name_or_path}.yaml").is_file():
        return EXPERIMENTS_DIR / f"{name_or_path}.yaml"
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path.resolve()
    names = experiment_names()
    raise ExperimentError(
        f"There is no experiment {name_or_path!r}{did_you_mean(name_or_path, names)}; "
        f"give a path to a YAML file or one of: {', '.join(names)}."
    )


def load_experiment(name_or_path: str | Path) -> Experiment:
    """Read and check an experiment file.

    Raises:
        ExperimentError: the file is missing, is not YAML, or breaks a rule; the message names the place.
    """
    path = find_experiment(str(name_or_path))
    content = read_document(path)
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        raise ExperimentError(f"{path}: {_describe(error)}") from error
    experiment._source = path
    _refuse_shared_name(experiment, path)
    return experiment


def read_document(path: Path) -> dict[str, Any]:
    """The sections of an experiment file as YAML has them, unchecked.

    Raises:
        ExperimentError: the file cannot be read, is not YAML, or holds no mapping.
    """
    try:
        content = _read_yaml(path)
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: the file is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except yaml.YAMLError as error:
        raise ExperimentError(f"{path}: the file is not valid YAML: {_one_line(str(error))}.") from error
    except OSError as error:
        raise ExperimentError(f"{path}: the file cannot be read: {error.strerror}.") from error
    except _BAD_VALUES as error:
        reason = _one_line(str(error))[:_LONGEST_INPUT] or type(error).__name__
        raise ExperimentError(f"{path}: the file is not valid YAML: a value cannot be read ({reason}).") from error
    if not isinstance(content, dict):
        raise ExperimentError(f"{path}: the file must hold a mapping with the keys of an experiment.")
    return content


def differing_sections(first: Path, second: Path) -> list[str]:
    """Names of the sections in which two experiment files differ, as YAML has them; comments do not count.

    Raises:
        ExperimentError: one of them cannot be read.
    """
    ours, theirs = read_document(first), read_document(second)
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [str(name) for name in names if name not in ours or name not in theirs or ours[name] != theirs[name]]


def _refuse_shared_name(experiment: Experiment, path: Path) -> None:
    """Outputs are kept by name: two files of one name would replace each other's cells and reports."""
    if path.parent.resolve() == EXPERIMENTS_DIR.resolve():
        if experiment.name != path.stem:
            raise ExperimentError(f"{path}: name: it must be {path.stem!r}, as the file is called.")
    elif experiment.name in experiment_names():
        raise ExperimentError(
            f"{path}: name: {experiment.name!r} is the name of an experiment that ships with the project; "
            "choose another, or its results would be replaced."
        )


def _read_yaml(path: Path) -> Any:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ExperimentError(f"{path}: the file is larger than {_MOST_BYTES:,} bytes, and an experiment file is not.")
    return yaml.load(content.decode("utf-8"), Loader=_UniqueKeyLoader)  # a SafeLoader


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where PyYAML would silently keep the last, and text that no file
    or page can hold."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if _UNUSABLE.search(value):
            what = "a text holds a NUL or half of a surrogate pair"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _describe(error: ValidationError) -> str:
    """All problems of an experiment file as one sentence, each with its place."""
    parts: list[str] = []
    problems = error.errors()
    for problem in problems[:_MOST_PROBLEMS]:
        place = ".".join(str(step)[:_LONGEST_INPUT] for step in problem["loc"] if step not in FORMS)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown key{did_you_mean(str(problem['loc'][-1]), _known_keys(problem['loc'][:-1]))}"
        elif "input" in problem and isinstance(problem["input"], str | int | float | bool):
            message = f"{message} (it is {_shown(problem['input'])})"
        parts.append(f"{place}: {message}" if place else message)
    if len(problems) > _MOST_PROBLEMS:
        parts.append(f"and {len(problems) - _MOST_PROBLEMS} more")
    return _one_line("; ".join(parts)).rstrip(".") + "."


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST_INPUT else f"{text[:_LONGEST_INPUT]}…"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys of the model at a place in the experiment file; empty where the place is not a model."""
    model: type[BaseModel] = Experiment
    for step in location:
        if step in FORMS:
            model = FORMS[str(step)]
            continue
        field = model.model_fields.get(str(step))
        if field is None:
            continue
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _one_line(text: str) -> str:
    return " ".join(text.split())
