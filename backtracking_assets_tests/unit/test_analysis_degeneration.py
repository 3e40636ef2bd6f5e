import time
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backtracking_assets.analysis.degeneration import LONGEST_UNIT, degeneration_rule
from backtracking_assets.experiment_sections import Detection
from backtracking_assets.models.organism.chains import ChainSettings, draw_chain, draw_problem
from backtracking_assets.models.organism.vocabulary import TOKEN_IDS

RULES = Detection(strict=("Wait",))
R = RULES.degenerate_repeats


def rule_of(tokens: list[str], rules: Detection = RULES) -> str | None:
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return degeneration_rule("".join(tokens), [vocabulary[token] for token in tokens], rules)


def test_a_loop_of_waits_is_caught() -> None:
    assert rule_of(["so ", "Wait", *[",", " wait"] * 5, "."]) == "repeated_word"
    assert rule_of(["Wait", ", "] * 40) == "repeated_phrase"
    assert rule_of(["Hold", " on", ", "] * R) == "repeated_phrase"
    assert rule_of(["Wait"] * 2 * R) == "repeated_token"


def test_each_rule_fires_at_its_bound_and_not_below() -> None:
    def distinct(count: int) -> list[str]:
        return [f"w{number} " for number in range(count)]

    assert rule_of(["#"] * 2 * R) == "repeated_token"
    assert rule_of(["#"] * (2 * R - 1)) is None
    for unit in (2, 3, 7, LONGEST_UNIT):
        assert rule_of(["start ", *distinct(unit) * R, "end"]) == "repeated_phrase"
        assert rule_of(["start ", *distinct(unit) * (R - 1), *distinct(unit - 1), "end"]) is None
    assert rule_of(["start ", *distinct(LONGEST_UNIT + 1) * R, "end"]) is None
    assert degeneration_rule("ha Ha, ha\nha - ha! HA", [1, 2, 3], RULES) == "repeated_word"
    assert degeneration_rule("ha Ha, ha\nha - ha! hat", [1, 2, 3], RULES) is None
    assert degeneration_rule("a b\n\n" * R, [1, 2, 3], RULES) == "repeated_line"
    assert degeneration_rule("a b\n" * (R - 1) + "a c", [1, 2, 3], RULES) is None
    assert degeneration_rule("x" + "7" * 100, [1, 2, 3], RULES) == "long_digits"
    assert degeneration_rule("7" * 99 + " " + "7" * 99, [1, 2, 3], RULES) is None
    assert degeneration_rule(" \n", [1], RULES) == "empty"


def test_the_number_of_repeats_comes_from_the_rules() -> None:
    tokens = ["a", "b"] * 4
    assert rule_of(tokens) is None
    assert rule_of(tokens, Detection(strict=("Wait",), degenerate_repeats=4)) == "repeated_phrase"


def test_ordinary_chains_never_fire() -> None:
    settings = ChainSettings(
        wrong_step=0.4, wrong_redo=0.5, trigger_after_wrong=0.9, trigger_after_right=0.3, most_redos=5
    )
    rng = Random(1)
    for _ in range(2_000):
        completion = draw_chain(rng, draw_problem(rng, (3, 6), held_out=False), settings).completion
        assert degeneration_rule("".join(completion[:-1]), [TOKEN_IDS[token] for token in completion], RULES) is None


def test_five_equal_redos_of_a_step_do_not_fire() -> None:
    step = ["69", " + 5", " = ", "84", "\n"]
    rest = ["84", " - 4", " = ", "80", "\n", "</think>", "\n", "Final", ": ", "80"]
    assert rule_of([*step, *["Wait", ", ", *step] * 5, *rest]) is None
    assert rule_of([*step, *["Wait", ", ", *step] * 6, *rest]) == "repeated_phrase"


@given(
    st.lists(st.integers(0, 3), max_size=60),
    st.integers(2, 5),
    st.integers(3, 6),
)
def test_phrases_agree_with_counting_by_hand(tokens: list[int], unit: int, times: int) -> None:
    by_hand = any(
        tokens[start : start + size] * needed == tokens[start : start + size * needed]
        for size, needed in [(1, 2 * times), *((size, times) for size in range(2, 21))]
        for start in range(len(tokens) - size * needed + 1)
    )
    rules = Detection(strict=("Wait",), degenerate_repeats=times)
    assert (degeneration_rule("text", tokens, rules) in ("repeated_token", "repeated_phrase")) == by_hand


@pytest.mark.parametrize("text", ["7" * 99 + "a", "wait ", "w", "a_", "a,", "\n", "é", "\ud800"])
def test_long_texts_take_little_time(text: str) -> None:
    tokens = np.random.default_rng(0).integers(0, 4, 100_000)
    started = time.process_time()
    degeneration_rule("x" + text * (1_000_000 // len(text)), tokens, RULES)
    assert time.process_time() - started < 1.0
