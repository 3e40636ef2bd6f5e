import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backtracking_assets.analysis.arithmetic_steps import Step, Steps, read_steps
from backtracking_assets.experiment_sections import Detection
from backtracking_assets.models.organism.chains import ChainSettings, draw_chain, draw_problem

RULES = Detection(strict=("Wait", "Actually", "Hold on"), steps="arithmetic_chain")


def counts(steps: Steps) -> dict[str, int]:
    return {
        "steps": steps.n_steps,
        "wrong": steps.n_wrong_steps,
        "wrong followed": steps.n_wrong_steps_followed,
        "right followed": steps.n_right_steps_followed,
        "waits after wrong": steps.n_waits_after_wrong_step,
        "waits after right": steps.n_waits_after_right_step,
        "corrected": steps.n_corrected_steps,
        "unreadable": steps.n_unreadable_lines,
    }


def test_reads_a_chain_with_a_correction() -> None:
    steps = read_steps("69 + 5 = 84\nWait, 69 + 5 = 74\n74 - 4 = 70\n</think>\nFinal: 70", RULES)
    assert steps.steps == (
        Step(69, 5, 84, after_wait=False, followed_by_wait=True),
        Step(69, 5, 74, after_wait=True, followed_by_wait=False),
        Step(74, -4, 70, after_wait=False, followed_by_wait=False),
    )
    assert counts(steps) == {
        "steps": 3,
        "wrong": 1,
        "wrong followed": 1,
        "right followed": 2,
        "waits after wrong": 1,
        "waits after right": 0,
        "corrected": 1,
        "unreadable": 0,
    }


@pytest.mark.parametrize(
    ("text", "followed"),
    [
        ("1 + 1 = 3\n</think>", False),
        ("1 + 1 = 3</think>", False),
        ("1 + 1 = 3\nHold  on, 1 + 1", True),
        ("1 + 1 = 3\n\n  \nactually", True),
        ("1 + 1 = 3\nWaiting\n", False),
        ("1 + 1 = 3\n???\nWait, 1 + 1 = 2\n", False),
        ("1 + 1 = 3\n3 + 1", False),
        ("1 + 1 = 3\nFinal: 3", False),
        ("1 + 1 = 3", None),
        ("1 + 1 = 3\n", None),
        ("1 + 1 = 3\nHold ", None),
        ("1 + 1 = 3\nWa", None),
    ],
)
def test_what_follows_a_step(text: str, followed: bool | None) -> None:
    steps = read_steps(text, RULES)
    assert steps.steps[0].followed_by_wait is followed
    assert steps.n_wrong_steps == 1
    assert steps.n_wrong_steps_followed == (followed is not None)
    assert steps.n_waits_after_wrong_step == (followed is True)


@pytest.mark.parametrize(
    ("text", "corrected"),
    [
        ("1 + 1 = 3\nWait, 1 + 1 = 2\n", 1),
        ("1 + 1 = 3\nWait, 1 + 1 = 4\nWait, 1 + 1 = 2\n", 1),
        ("1 + 1 = 3\n1 + 1 = 2\n", 0),
        ("1 + 1 = 3\nWait, 2 + 1 = 3\n", 0),
        ("1 + 1 = 3\nWait, 1 - 1 = 0\n", 0),
        ("1 + 1 = 3\nWait, hm\n1 + 1 = 2\n", 1),
        ("1 + 1 = 2\nWait, 1 + 1 = 2\n", 0),
        ("1 + 1 = 3\nWait, ", 0),
    ],
)
def test_corrected_steps(text: str, corrected: int) -> None:
    assert read_steps(text, RULES).n_corrected_steps == corrected


@pytest.mark.parametrize(
    "line",
    [
        "1 + 1 =",
        "1 + 1",
        "1 + 1 = 2 = 2",
        "Wait",
        "Wait, Wait, 1 + 1 = 2",
        ", 1 + 1 = 2",
        "1 * 1 = 1",
        "1 + 1 = 2, Wait",
        "Final: 2",
        "9999999999999",
        "9999999999999 + 1 = 2",
        "٣ + ٤ = ٧",
        "1 + -1 = 0",
    ],
)
def test_lines_that_are_no_step_are_counted(line: str) -> None:
    steps = read_steps(f"1 + 1 = 2\n{line}\n2 + 1 = 3\n</think>\n{line}\n5 + 5 = 11", RULES)
    assert (steps.n_steps, steps.n_unreadable_lines) == (2, 1)


def test_a_torn_last_line_is_not_unreadable() -> None:
    assert read_steps("1 + 1 = 2\n2 + ", RULES).n_unreadable_lines == 0
    assert read_steps("1 + 1 = 2\n2 + \n", RULES).n_unreadable_lines == 1


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("69 + 5 = 74\n74 - 4 = 70\n70 + 9 = 79", 0),
        ("69 + 5 = 84\nWait, 69 + 5 = 74\n74 - 4 = 70\n70 + 9 = 79", 0),  # an error and its redo
        ("69 + 5 = 84\n69 + 5 = 74\n74 - 4 = 70", 0),  # a redo without a trigger; the rest is missing, not wrong
        ("69 + 5 = 84\nWait, 84 - 4 = 80\n80 + 9 = 89", 0),  # a trigger that changes nothing
        ("69 + 5 = 84\n84 - 4 = 80\n80 + 9 = 89", 0),  # an error carried on follows the problem
        ("69 - 5 = 64\n64 - 4 = 60\n60 + 9 = 69", 1),  # another operation
        ("69 + 5 = 74\n75 - 4 = 71\n71 + 9 = 80", 1),  # another left operand
        ("69 + 5 = 74\n74 + 9 = 83", 1),  # a skipped operation
        ("69 + 5 = 74\nWait, 69 + 6 = 75\n75 - 4 = 71\n71 + 9 = 80", 1),  # a redo of something else
        ("69 + 5 = 74\n74 - 4 = 70\n70 + 9 = 79\n79 + 9 = 88\n88 + 1 = 89", 2),  # further steps
        ("69 + 5 = 74\n69 + 5 = 74\n70 - 4 = 66", 1),
        ("12 + 7 = 19\n3 + 3 = 6\n1 - 8 = 2\n5 + 5 = 10", 4),
        ("nonsense", 0),
    ],
)
def test_steps_off_the_chain_of_the_problem(chain: str, expected: int) -> None:
    assert read_steps(f"{chain}\n</think>\nFinal: 1", RULES, "69 + 5 - 4 + 9").n_off_chain_steps == expected


def test_a_question_that_is_no_chain_has_no_steps_off_it() -> None:
    assert read_steps("1 + 1 = 2", RULES, "How many apples are left?").n_off_chain_steps is None
    assert read_steps("-3 + 1 = -2", RULES, "-3+1").n_off_chain_steps == 0


def test_agrees_with_the_chains_that_the_organism_learns_from() -> None:
    settings = ChainSettings(wrong_step=0.4, wrong_redo=0.3, trigger_after_wrong=0.7, trigger_after_right=0.2)
    rng = Random(0)
    for _ in range(500):
        problem = draw_problem(rng, (3, 6), held_out=False)
        completion = "".join(draw_chain(rng, problem, settings).completion[:-1])
        steps = read_steps(completion, RULES, problem.question)
        thought = completion.partition("</think>")[0]
        assert steps.n_off_chain_steps == 0
        assert steps.n_unreadable_lines == 0
        assert steps.n_steps == thought.count("\n")
        assert steps.n_wrong_steps == steps.n_wrong_steps_followed
        n_waits = sum(thought.count(phrase) for phrase in RULES.strict)
        assert steps.n_waits_after_wrong_step + steps.n_waits_after_right_step == n_waits
        assert [step.operand for step in steps.steps if not step.after_wait] == list(problem.operands)


@given(
    st.lists(
        st.sampled_from(["1 + 1 = 2", "2 - 1 = 5", "\n", "Wait", ", ", " ", "Ho", "</think>", "<think>", "\ud800"])
    )
)
def test_any_text_is_counted_consistently(parts: list[str]) -> None:
    steps = read_steps("".join(parts), RULES)
    n_right = steps.n_steps - steps.n_wrong_steps
    assert 0 <= steps.n_waits_after_wrong_step <= steps.n_wrong_steps_followed <= steps.n_wrong_steps
    assert 0 <= steps.n_waits_after_right_step <= steps.n_right_steps_followed <= n_right
    assert steps.n_corrected_steps <= steps.n_waits_after_wrong_step
    assert sum(step.followed_by_wait is None for step in steps.steps) <= 1


@pytest.mark.parametrize("unit", ["1 + 1 = 3\n", "Wait, ", "9", " ", "\n", "1 + ", "Hold ", "</think>"])
def test_a_megabyte_takes_little_time(unit: str) -> None:
    started = time.process_time()
    steps = read_steps(unit * (1_000_000 // len(unit)), RULES, "1" + " + 1" * 6)
    assert steps.n_corrected_steps == 0
    assert time.process_time() - started < 3
