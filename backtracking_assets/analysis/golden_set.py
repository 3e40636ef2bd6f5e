"""The golden set of labelled passages, and how well the text rules tell their classes."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from backtracking_assets.analysis.backtracking_classes import Classes, classify_text
from backtracking_assets.analysis.degeneration import degeneration_rule
from backtracking_assets.analysis.triggers import find_events
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Detection
from backtracking_assets.places import PROJECT_ROOT
from backtracking_assets.records import CompletionClass, EventClass

FOLDER = PROJECT_ROOT / "data" / "golden"
PASSAGES, SCORES = FOLDER / "backtracking_passages.jsonl", FOLDER / "scores.json"

RULES = Detection(
    strict=("Wait", "Actually", "Hold on"), relaxed=("Let me check", "Let's check", "I was wrong", "mistake")
)
"""The triggers of the reference study, by which the passages' events are marked."""

Split = Literal["dev", "held_out"]
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Passage:
    """A labelled passage."""

    passage_id: str
    split: Split
    text: str
    spans: tuple[tuple[int, int], ...]
    """First character of each event and the character after its last."""
    event_classes: tuple[EventClass, ...]
    passage_class: CompletionClass


def read_passages(path: Path = PASSAGES) -> list[Passage]:
    """The passages in the order of the file.

    Raises:
        BacktrackingError: the file is not there, or a line is no passage; the message names it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BacktrackingError(f"The golden set {path} cannot be read: {error}.") from error
    passages: list[Passage] = []
    for number, line in enumerate(lines, start=1):
        try:
            passages.append(_passage(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise BacktrackingError(f"{path}, line {number}, is no labelled passage: {error!r}.") from error
    return passages


def read_scores(path: Path = SCORES) -> dict[str, Any]:
    """The figures that `benchmarks/golden.py` wrote, as JSON values.

    Raises:
        BacktrackingError: the file is not there or is not such a file.
    """
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        _ = scores["detection_version"], scores["splits"]["held_out"]["passages"]["classes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BacktrackingError(
            f"The golden scores {path} cannot be read ({error!r}); `git checkout -- {path.name}` in {path.parent} "
            "brings them back."
        ) from error
    return scores


def _passage(row: dict[str, Any]) -> Passage:
    classes = [row["class"], *(event["class"] for event in row["events"])]
    known = {*get_args(CompletionClass), *get_args(EventClass)}
    if strange := sorted(set(classes) - known):
        raise ValueError(f"there is no class {strange[0]!r}")
    return Passage(
        passage_id=row["id"],
        split=row["split"],
        text=row["text"],
        spans=tuple((event["start"], event["end"]) for event in row["events"]),
        event_classes=tuple(event["class"] for event in row["events"]),
        passage_class=row["class"],
    )


def classify_passage(passage: Passage) -> Classes:
    """The classes that the text rules give; words and signs stand for tokens where degeneration is looked for."""
    numbers: dict[str, int] = {}
    tokens = [numbers.setdefault(word, len(numbers)) for word in _WORD.findall(passage.text)]
    degenerate = degeneration_rule(passage.text, tokens, RULES) is not None
    return classify_text(passage.text, find_events(passage.text, RULES), degenerate=degenerate, cut_off=False)


def score(passages: Sequence[Passage], confidence: float = 0.95) -> dict[str, Any]:
    """Agreement with the labels: of passages, and of the events of passages that are not degenerate.

    Returns:
        JSON values. Precision and recall of each class are given as [share, low, high, n] with Wilson's interval, None
        where n is 0; the confusion counts are [label, found, n].
    """
    found = [classify_passage(passage) for passage in passages]
    by_passage = [(p.passage_class, c.completion) for p, c in zip(passages, found, strict=True)]
    by_event = [
        pair
        for passage, classes in zip(passages, found, strict=True)
        if passage.passage_class != "degenerate"
        for pair in zip(passage.event_classes, classes.events, strict=True)
    ]
    return {"passages": _agreement(by_passage, confidence), "events": _agreement(by_event, confidence)}


def _agreement(pairs: Sequence[tuple[str, str]], confidence: float) -> dict[str, Any]:
    counts = Counter(pairs)
    names = sorted({label for label, _ in pairs})
    return {
        "n": len(pairs),
        "agree": _share(sum(label == found for label, found in pairs), len(pairs), confidence),
        "classes": {
            name: {
                "precision": _share(
                    counts[name, name], _total(counts, (found == name for _, found in counts)), confidence
                ),
                "recall": _share(
                    counts[name, name], _total(counts, (label == name for label, _ in counts)), confidence
                ),
            }
            for name in names
        },
        "confusion": [[label, found, n] for (label, found), n in sorted(counts.items())],
    }


def _total(counts: Counter[tuple[str, str]], chosen: Iterable[bool]) -> int:
    return sum(n for n, is_chosen in zip(counts.values(), chosen, strict=True) if is_chosen)


def _share(hits: int, n: int, confidence: float) -> list[float | int] | None:
    if n == 0:
        return None
    low, high = np.asarray(proportion_confint(hits, n, alpha=1 - confidence, method="wilson"))
    return [round(hits / n, 4), round(float(low), 4), round(float(high), 4), n]
