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


def test_agrees_with_the_chains_that_the_organism_learns_from() -> None:
    settings = ChainSettings(wrong_step=0.4, wrong_redo=0.3, trigger_after_wrong=0.7, trigger_after_right=0.2)
    rng = Random(0)
    for _ in range(500):
        problem = draw_problem(rng, (3, 6), held_out=False)
        completion = "".join(draw_chain(rng, problem, settings).completion[:-1])
        steps = read_steps(completion, RULES)
        thought = completion.partition("</think>")[0]
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
    steps = read_steps(unit * (1_000_000 // len(unit)), RULES)
    assert steps.n_corrected_steps == 0
    assert time.process_time() - started < 3
