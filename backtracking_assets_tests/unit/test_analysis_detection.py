import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking_assets.analysis.detection import STEP_COLUMNS, detect, rules_digest
from backtracking_assets.analysis.golden_set import read_passages
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Detection
from backtracking_assets.records import DETECTIONS, Problem
from backtracking_assets_tests.unit.analysis_samples import (
    RULES,
    completion_row,
    completions_table,
    sample_completions,
    sample_problems,
)
from backtracking_assets_tests.unit.bounds import bounded

PROBLEMS = {"p": Problem("p", "69 + 5 - 4", "70")}
CHAIN = ["69", " + 5", " = ", "84", "\n", "Wait", ", ", "69", " + 5", " = ", "74", "\n"]
CHAIN += ["74", " - 4", " = ", "70", "\n", "</think>", "\n", "Final", ": ", "70"]


def test_one_completion_is_read_in_full() -> None:
    table = detect(completions_table([completion_row("p", 0, CHAIN)]), PROBLEMS, RULES, run_id="run 7")
    assert table.schema == DETECTIONS
    assert table.to_pylist() == [
        {
            "fingerprint": "baseline",
            "problem_id": "p",
            "sample_id": 0,
            "rules_digest": rules_digest(RULES),
            "has_strict": True,
            "has_relaxed": True,
            "n_strict": 1,
            "n_relaxed": 1,
            "onset_phrase": "Wait",
            "onset_character": 12,
            "onset_token": 5,
            "first_strict_token": 5,
            "completion_class": "genuine",
            "n_genuine": 1,
            "n_filler": 0,
            "n_silent": 0,
            "event_phrases": ["Wait"],
            "event_kinds": ["strict"],
            "event_starts": [12],
            "event_ends": [16],
            "event_tokens": [5],
            "event_classes": ["genuine"],
            "degenerate": False,
            "degeneration_rule": None,
            "answer": "70",
            "verdict": "correct",
            "correct": True,
            "truncated": False,
            "n_steps": 3,
            "n_wrong_steps": 1,
            "n_wrong_steps_followed": 1,
            "n_right_steps_followed": 2,
            "n_waits_after_wrong_step": 1,
            "n_waits_after_right_step": 0,
            "n_corrected_steps": 1,
            "n_unreadable_lines": 0,
            "n_off_chain_steps": 0,
            "run_id": "run 7",
        }
    ]


def test_steps_off_the_chain_are_null_where_the_question_is_no_chain() -> None:
    completions = completions_table([completion_row("p", 0, CHAIN)])
    (row,) = detect(completions, {"p": Problem("p", "How many are left?", "70")}, RULES, run_id="r").to_pylist()
    assert (row["n_steps"], row["n_off_chain_steps"]) == (3, None)


def test_steps_are_null_where_the_grammar_is_not_known() -> None:
    rules = RULES.model_copy(update={"steps": None})
    (row,) = detect(completions_table([completion_row("p", 0, CHAIN)]), PROBLEMS, rules, run_id="r").to_pylist()
    assert [row[name] for name in STEP_COLUMNS] == [None] * len(STEP_COLUMNS)
    assert row["has_strict"]


def test_the_first_strict_token_is_kept_when_the_onset_is_a_relaxed_trigger() -> None:
    rules = RULES.model_copy(update={"priority": "earliest"})
    tokens = ["a ", "mistake", ", ", "Wait", "."]
    (row,) = detect(completions_table([completion_row("p", 0, tokens)]), PROBLEMS, rules, run_id="r").to_pylist()
    assert (row["onset_phrase"], row["onset_token"], row["first_strict_token"]) == ("mistake", 1, 3)
    assert (row["n_strict"], row["n_relaxed"]) == (1, 2)


def test_rows_come_in_the_order_of_their_keys_whatever_the_order_of_completions() -> None:
    completions = sample_completions(7, 3)
    shuffled = completions.take(pa.array([(index * 8) % 21 for index in range(21)]))
    problems = sample_problems(7)
    expected = detect(completions, problems, RULES, run_id="r")
    assert detect(shuffled, problems, RULES, run_id="r").equals(expected)
    keys = [(row["problem_id"], row["sample_id"]) for row in expected.to_pylist()]
    assert keys == sorted(keys)
    assert len(keys) == 21
    assert detect(completions.slice(6, 3), problems, RULES, run_id="r").equals(expected.slice(6, 3))


def test_no_completions_give_an_empty_table() -> None:
    table = detect(completions_table([]), {}, RULES, run_id="r")
    assert table.schema == DETECTIONS
    assert table.num_rows == 0


def test_an_unknown_problem_is_named() -> None:
    with pytest.raises(BacktrackingError, match="'q'"):
        detect(completions_table([completion_row("q", 0, CHAIN)]), PROBLEMS, RULES, run_id="r")


def test_tokens_that_do_not_cover_the_text_are_refused() -> None:
    with pytest.raises(BacktrackingError, match="'p'"):
        detect(completions_table([completion_row("p", 0, CHAIN, token_starts=[])]), PROBLEMS, RULES, run_id="r")


def test_an_absurd_completion_changes_no_other_row() -> None:
    rows = [completion_row("p", sample_id, CHAIN) for sample_id in range(3)]
    absurd = completion_row("p", 1, ["Final: ", "1" + "0" * 100_000], finish_reason="length")
    table = detect(completions_table([rows[0], absurd, rows[2]]), PROBLEMS, RULES, run_id="r")
    whole = detect(completions_table(rows), PROBLEMS, RULES, run_id="r").to_pylist()
    first, second, third = table.to_pylist()
    assert (first, third) == (whole[0], whole[2])
    assert (second["verdict"], second["degeneration_rule"], second["truncated"]) == ("wrong", "long_digits", True)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",))), st.sampled_from(["", "Wait, ", "1 + 1 = 3\n", "Final: "]))
def test_any_text_gets_a_row(text: str, start: str) -> None:
    table = detect(completions_table([completion_row("p", 0, [start, *text])]), PROBLEMS, RULES, run_id="r")
    (row,) = table.to_pylist()
    assert row["has_strict"] == (row["first_strict_token"] is not None)
    assert row["has_relaxed"] == (row["onset_token"] is not None)
    assert row["correct"] == (row["verdict"] == "correct")


def test_the_digest_follows_the_rules() -> None:
    assert rules_digest(RULES) == rules_digest(Detection.model_validate(RULES.model_dump()))
    assert rules_digest(RULES) != rules_digest(RULES.model_copy(update={"degenerate_repeats": 7}))


def test_the_passages_in_any_number_and_a_text_of_triggers_are_read_in_time() -> None:
    """A second in all on one core; a list of all tokens for every event would take minutes."""
    passages = "\n".join(passage.text for passage in read_passages() if passage.passage_class != "degenerate")
    texts = [passages[begin : begin + 2000] for begin in range(0, 20_000, 100)]
    rules = Detection(strict=RULES.strict, relaxed=RULES.relaxed)
    words = [re.findall(r"\w+|\W", text) for text in texts]
    short = completions_table(completion_row("p", n, w, token_ids=[*range(len(w))]) for n, w in enumerate(words))
    long = completions_table([completion_row("p", 0, ["Wait", ", so\n"] * 50_000)])
    with bounded(5):
        assert "genuine" in detect(short, PROBLEMS, rules, run_id="run").column("completion_class").to_pylist()
    with bounded(10):
        found = detect(long, PROBLEMS, rules, run_id="run")
    assert found.column("event_tokens")[0].as_py() == list(range(0, 100_000, 2))
