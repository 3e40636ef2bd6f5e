"""What has changed, in words: every part of a study is named, and nothing that is the same."""

import pytest

from backtracking_assets.analysis.detection import DETECTION_VERSION, rules_document
from backtracking_assets.analysis.statistics_settings import METRICS_VERSION, statistics_document
from backtracking_assets.assets.changes import (
    condition_changes,
    problem_changes,
    rules_changes,
    statistics_changes,
)
from backtracking_assets.conditions import Condition, Intervention
from backtracking_assets.experiment_sections import Detection, Statistics
from backtracking_assets.records import Problem

CONDITION = Condition(
    weights_digest="w" * 64,
    tokenizer_digest="t" * 64,
    dtype="float32",
    system=None,
    chat_template=True,
    template="{question}",
    temperature=0.7,
    top_p=0.95,
    max_new_tokens=512,
    seed=1,
    intervention=Intervention(components=((15, "attention"), (17, "attention"), (27, "mlp")), scale=0.5),
).model_dump(mode="json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"weights_digest": "other"}, ["checkpoint: other weights"]),
        ({"tokenizer_digest": "other", "dtype": "bfloat16"}, ["checkpoint: other tokenizer, dtype float32 → bfloat16"]),
        ({"temperature": 1.0, "max_new_tokens": 64}, ["sampling: temperature 0.7 → 1.0, token cap 512 → 64"]),
        ({"top_p": 1.0}, ["sampling: top-p 0.95 → 1.0"]),
        ({"system": "Think."}, ["prompt: system line"]),
        ({"template": "x" * 9999, "assistant_prefix": "<think>"}, ["prompt: text of the variant, assistant prefix"]),
        ({"chat_template": False}, ["prompt: chat template"]),
        ({"generator_version": "9"}, ["code version: generator 1 → 9"]),
        ({"intervention": None}, ["layers: attention 15, 17 · mlp 27 → none"]),
        (
            {"intervention": {"components": [[2, "mlp"], [27, "mlp"], [3, "attention"]], "scale": 0.5}, "seed": 2},
            ["sampling: seed 1 → 2", "layers: attention 15, 17 · mlp 27 → attention 3 · mlp 2, 27"],
        ),
        ({"a_key_of_a_later_release": 1}, ["condition: a_key_of_a_later_release"]),
    ],
)
def test_each_part_of_a_condition_is_named(changes: dict, said: list[str]) -> None:
    assert condition_changes(CONDITION, {**CONDITION, **changes}) == said


def test_an_assistant_prefix_that_is_not_there_is_none() -> None:
    older = {key: value for key, value in CONDITION.items() if key != "assistant_prefix"}
    assert condition_changes(older, CONDITION) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"strict": ("Wait", "Hmm")}, ["detection: strict triggers +Hmm -'Hold on'"]),
        ({"strict": ("Hold on", "Wait")}, ["detection: strict triggers in another order"]),
        ({"strict": tuple(f"trigger {i}" for i in range(40))}, ["detection: strict triggers"]),
        (
            {"relaxed": ("mistake",), "priority": "earliest", "answer_marker": "Answer: "},
            ["detection: relaxed triggers +mistake, priority strict → earliest, answer marker 'Final:' → 'Answer: '"],
        ),
        ({"steps": "arithmetic_chain"}, ["detection: steps none → arithmetic_chain"]),
        ({"degenerate_repeats": 9}, ["detection: degenerate repeats 6 → 9"]),
    ],
)
def test_each_part_of_the_rules_is_named(changes: dict, said: list[str]) -> None:
    before = rules_document(Detection(strict=("Wait", "Hold on")))
    now = rules_document(Detection.model_validate({"strict": ("Wait", "Hold on"), **changes}))
    assert rules_changes(before, now) == said


def test_other_statistics_and_other_code_are_told_apart() -> None:
    before, now = statistics_document(Statistics()), statistics_document(Statistics(confidence=0.9, seed=3))
    assert statistics_changes(before, before) == []
    assert statistics_changes(before, now) == ["statistics: confidence 0.95 → 0.9, seed 0 → 3"]
    assert statistics_changes({**before, "version": "0"}, before) == [f"code version: metrics 0 → {METRICS_VERSION}"]
    assert statistics_changes({**before, "version": "0"}, now)[0] == f"code version: metrics 0 → {METRICS_VERSION}"
    assert statistics_changes(None, now) == ["statistics: other settings"]
    rules = rules_document(Detection(strict=("Wait",)))
    assert rules_changes({**rules, "version": "0"}, rules) == [f"code version: detection 0 → {DETECTION_VERSION}"]
    assert rules_changes(None, rules) == ["detection: other rules"]


def test_problems_are_counted_by_what_became_of_them() -> None:
    before = [Problem(f"p{i}", f"question {i}", str(i)) for i in range(4)]
    now = {problem.problem_id: problem for problem in before[1:]}
    assert problem_changes(before, {problem.problem_id: problem for problem in before}) == []
    now |= {"p1": Problem("p1", "another", "1"), "p2": Problem("p2", "question 2", "22")}
    now |= {f"new{i}": Problem(f"new{i}", "q", "a") for i in range(2)}
    assert problem_changes(before, now) == ["problems: 2 added, 1 removed, 1 with another text, 1 with another answer"]
