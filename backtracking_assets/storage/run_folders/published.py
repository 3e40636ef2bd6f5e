"""The published figures of a run folder, each with the completions that it is about where the events can tell."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backtracking_assets.imported_records import STUDY_BASELINE, SWEEP_FILES, PublishedFigure, Scope
from backtracking_assets.storage.run_folders.files import FileProblems, is_number, read_csv, read_json
from backtracking_assets.storage.run_folders.values import Row, UnfitValueError, number, shown

_MOST_VALUES, _DEEPEST = 10_000, 8
_COUNTS = ("total", "backtracking_count", "backtracking_rate")
_MOST_LAYERS = 10_000

_Read = Callable[[Path, FileProblems], list[PublishedFigure]]


def _table(
    name: str, keys: tuple[str, ...], numbers: tuple[str, ...], make: Callable[[Row], PublishedFigure]
) -> tuple[str, _Read]:
    """A CSV file whose rows have keys; `make` gives a row's figure without measure and value."""

    def read(path: Path, problems: FileProblems) -> list[PublishedFigure]:
        def figures_of(row: Row, line: int) -> tuple[int, list[PublishedFigure]]:
            entry = make(row)
            values = {column: row.optional_number(column) for column in numbers}
            return line, [
                replace(entry, measure=column, value=value) for column, value in values.items() if value is not None
            ]

        rows, columns = read_csv(path, keys, figures_of, problems)
        if not set(numbers).intersection(columns):
            problems.leave_out("line 1", f"it has none of the columns {', '.join(numbers)}")
        seen: dict[str, int] = {}
        found: list[PublishedFigure] = []
        for line, figures in rows:
            entry = figures[0].entry if figures else ""
            if entry in seen:
                problems.leave_out(f"line {line}", f"{entry} stands already at line {seen[entry]}")
            elif figures:
                seen[entry] = line
                found += figures
        return found

    return name, read


def _condition_row(row: Row) -> PublishedFigure:
    variant, condition = row.name("variant"), row.name("condition")
    return _entry("condition_comparison.csv", f"{variant} / {condition}", Scope(variant, condition))


def _variant_row(row: Row) -> PublishedFigure:
    variant = row.name("variant")
    return _entry("formatting_summary.csv", variant, Scope(variant, STUDY_BASELINE))


def _subset_row(row: Row) -> PublishedFigure:
    name = row.name("subset_name")
    return replace(
        _entry(SWEEP_FILES[0], name, None),
        layer_subset=name,
        # The study's sweep over subsets silences them; its baseline scales nothing.
        scale=1.0 if name == STUDY_BASELINE else 0.0,
        n_components=row.optional_whole("num_components"),
    )


def _scale_row(row: Row) -> PublishedFigure:
    name, scale = row.name("subset_name"), row.optional_number("scale")
    if scale is None:
        raise UnfitValueError("scale is empty")
    return replace(
        _entry(SWEEP_FILES[1], f"{name} at {scale:g}", None),
        layer_subset=name,
        scale=scale,
        n_components=row.optional_whole("num_components"),
    )


def _component_row(row: Row) -> PublishedFigure:
    kind = {"attn": "attention", "attention": "attention", "mlp": "mlp"}.get(row.name("component"))
    if kind is None:
        raise UnfitValueError(f"component is {shown(row.name('component'))}, neither attn nor mlp")
    return _entry("ablation_importance.csv", f"{kind}.{row.whole('layer')}", None)


def _layer_row(row: Row) -> PublishedFigure:
    return _entry("logit_lens.csv", f"layer {row.whole('layer')}", None)


def _entry(file: str, entry: str, scope: Scope | None) -> PublishedFigure:
    return PublishedFigure(file=file, entry=entry, measure="", value=0.0, scope=scope)


_SWEPT = (*_COUNTS, "correct_count", "accuracy")
TABLES: dict[str, _Read] = dict(
    (
        _table("condition_comparison.csv", ("variant", "condition"), (*_COUNTS, "accuracy"), _condition_row),
        _table("formatting_summary.csv", ("variant",), (*_COUNTS, "accuracy"), _variant_row),
        _table(
            "ablation_importance.csv",
            ("layer", "component"),
            ("delta_wait_logit_mean", "delta_wait_logit_std", "n_events"),
            _component_row,
        ),
        _table(
            "logit_lens.csv",
            ("layer",),
            ("mean_target_logit_bt", "mean_target_logit_control", "std_bt", "std_control", "n_bt", "n_control"),
            _layer_row,
        ),
        _table(SWEEP_FILES[0], ("subset_name",), _SWEPT, _subset_row),
        _table(SWEEP_FILES[1], ("subset_name", "scale"), _SWEPT, _scale_row),
    )
)
"""How each CSV file of figures is read, by its name."""

DOCUMENTS = ("summary_metrics.json", "metrics_v2.json")
"""Files of nested figures."""


def read_document(path: Path, problems: FileProblems) -> list[PublishedFigure]:
    """The figures of a JSON file, by the path of their object.

    Raises:
        RunFolderError: it is no JSON object, or holds more than a file of this layout does.
    """
    content = read_json(path)
    section = content.get("variant_specific")
    variant = section.get("variant") if isinstance(section, dict) else None
    study_variant = str(variant) if isinstance(variant, str) else None
    found: list[PublishedFigure] = []
    for place, value in _leaves(content, (), problems):
        try:
            figure = number(value.strip(), ".".join(place))
        except UnfitValueError as error:
            problems.leave_out(".".join(place), str(error))
            continue
        *above, measure = place
        scope = _scope(path.name, tuple(above), study_variant)
        found.append(PublishedFigure(path.name, ".".join(above) or "all", measure, figure, scope))
        if len(found) > _MOST_VALUES:
            problems.leave_out("the rest", f"it holds more than {_MOST_VALUES:,} figures")
            break
    return found


def _leaves(
    node: Mapping[str, Any], above: tuple[str, ...], problems: FileProblems
) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in node.items():
        place = (*above, key)
        if not key or len(key) > 200 or not key.isprintable():
            problems.leave_out(".".join(above) or "all", f"the key {shown(key)} is no name")
        elif isinstance(value, dict):
            if len(place) >= _DEEPEST:
                problems.leave_out(".".join(place), f"it lies deeper than {_DEEPEST} objects")
            else:
                yield from _leaves(value, place, problems)
        elif is_number(value):
            yield place, value


def _scope(file: str, above: tuple[str, ...], study_variant: str | None) -> Scope | None:
    """The completions that an object of a document is about; None where the events cannot tell."""
    if file == "summary_metrics.json":
        match above:
            case ():
                return Scope()
            case ("by_variant", variant):
                return Scope(variant=variant)
            case ("by_condition", condition):
                return Scope(condition=condition)
        return None
    match above:
        case ("baseline_only_summary",) | ("backtracking_vs_accuracy",):
            return Scope(condition=STUDY_BASELINE)
        case ("backtracking_vs_accuracy", "with_backtracking"):
            return Scope(condition=STUDY_BASELINE, has_strict=True)
        case ("backtracking_vs_accuracy", "without_backtracking"):
            return Scope(condition=STUDY_BASELINE, has_strict=False)
        case ("formatting_effect", "by_variant", variant):
            return Scope(variant, STUDY_BASELINE)
        case ("variant_specific",) if study_variant is not None:
            return Scope(variant=study_variant)
        case ("variant_specific", "by_condition", condition) if study_variant is not None:
            return Scope(study_variant, condition)
    return None


def read_selected(path: Path, problems: FileProblems) -> dict[str, tuple[int, ...]] | None:
    """The selected layers by `attention` and `mlp`, the best first; None where none can be read.

    Raises:
        RunFolderError: it is no JSON object.
    """
    content = read_json(path)
    selected: dict[str, tuple[int, ...]] = {}
    for kind, key in (("attention", "attn"), ("mlp", "mlp")):
        listed = content.get(key, content.get(kind, []))
        if not isinstance(listed, list) or not all(is_number(value) and str(value).isdecimal() for value in listed):
            problems.leave_out(key, "it is no list of layers")
            return None
        if any(len(value) > 6 or int(value) > _MOST_LAYERS for value in listed) or len(set(listed)) != len(listed):
            problems.leave_out(key, "it names a layer twice, or one that no model has")
            return None
        selected[kind] = tuple(int(value) for value in listed)
    if not any(selected.values()):
        problems.leave_out("all", "it names no layer")
        return None
    return selected
