"""The golden set is what its page says, and the text rules are as good on it as the committed figures."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from backtracking_assets.analysis.detection import DETECTION_VERSION
from backtracking_assets.analysis.golden_set import RULES, Passage, read_passages, read_scores, score
from backtracking_assets.analysis.triggers import find_events
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_file import load_experiment

FLOORS = {"dev": 0.90, "held_out": 0.88}
"""Share of passages that get their label's class: a few points below 0.953 and 0.919 as measured."""
CLASS_FLOORS = {"genuine": (0.90, 0.78), "silent": (0.90, 0.85), "filler": (0.75, 0.90), "none": (0.80, 0.90)}
"""Precision and recall of held-out passages: a few points below the figures in data/golden/scores.json."""


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return read_passages()


def test_the_set_is_large_and_about_half_is_held_out(passages: list[Passage]) -> None:
    assert len(passages) >= 200
    assert len({passage.passage_id for passage in passages}) == len({p.text for p in passages}) == len(passages)
    held_out = sum(passage.split == "held_out" for passage in passages)
    assert 0.4 < held_out / len(passages) < 0.6
    assert min(Counter((p.split, p.passage_class) for p in passages).values()) >= 5


def test_the_split_is_a_hash_of_the_id(passages: list[Passage]) -> None:
    for passage in passages:
        is_odd = hashlib.sha256(passage.passage_id.encode()).digest()[0] % 2 == 1
        assert passage.split == ("held_out" if is_odd else "dev")


def test_every_trigger_of_the_reference_is_labelled(passages: list[Passage]) -> None:
    rules = load_experiment("deepseek_r1_distill_qwen_1_5b").detection
    assert (rules.strict, rules.relaxed) == (RULES.strict, RULES.relaxed)
    for passage in passages:
        assert [(event.start, event.end) for event in find_events(passage.text, rules)] == list(passage.spans)
        assert len(passage.event_classes) == len(passage.spans)


def test_the_labels_of_a_passage_and_its_triggers_agree(passages: list[Passage]) -> None:
    for passage in passages:
        if passage.passage_class != "degenerate":
            assert ("genuine" in passage.event_classes) == (passage.passage_class == "genuine"), passage.passage_id


@pytest.mark.parametrize("split", FLOORS)
def test_the_rules_are_above_the_floor_and_as_committed(passages: list[Passage], split: str) -> None:
    scores = score([passage for passage in passages if passage.split == split])
    assert scores["passages"]["agree"][0] >= FLOORS[split]
    assert scores == read_scores()["splits"][split]


def test_every_class_is_above_its_floor_on_what_was_held_out(passages: list[Passage]) -> None:
    classes = score([passage for passage in passages if passage.split == "held_out"])["passages"]["classes"]
    for name, (precision, recall) in CLASS_FLOORS.items():
        assert classes[name]["precision"][0] >= precision
        assert classes[name]["recall"][0] >= recall


def test_the_committed_figures_are_of_these_rules() -> None:
    assert read_scores()["detection_version"] == DETECTION_VERSION


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "line 1"),
        ('{"id": "a"}', "line 1"),
        ('{"id": "a", "split": "dev", "text": "", "events": [], "class": "x"}', "'x'"),
    ],
)
def test_a_line_that_is_no_passage_is_named(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "passages.jsonl"
    path.write_text(content)
    with pytest.raises(BacktrackingError, match=named):
        read_passages(path)


def test_missing_or_broken_scores_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BacktrackingError, match=r"golden scores .* cannot be read"):
        read_scores(tmp_path / "scores.json")
    (tmp_path / "scores.json").write_text("[]")
    with pytest.raises(BacktrackingError, match="cannot be read"):
        read_scores(tmp_path / "scores.json")
