import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from backtracking_assets.models.organism.batches import IGNORED, decisions, make_batch, training_batches
from backtracking_assets.models.organism.chains import (
    SECOND_STUDY_SEED,
    Chain,
    ChainSettings,
    Problem,
    draw_chain,
    draw_problem,
    is_held_out,
    study_problems,
    study_problems_jsonl,
    training_chains,
)
from backtracking_assets.models.organism.probes import injected_steps
from backtracking_assets.models.organism.vocabulary import EOS, TOKENS, TRIGGERS, token_ids

PROBLEMS_FILE = Path(__file__).parents[2] / "data" / "problems" / "organism.jsonl"
SECOND_FILE = PROBLEMS_FILE.with_name("organism_2.jsonl")
NEVER_WRONG = ChainSettings(wrong_step=0, wrong_redo=0, trigger_after_wrong=0, trigger_after_right=0)
ALWAYS_CORRECTED = ChainSettings(wrong_step=1, wrong_redo=0, trigger_after_wrong=1, trigger_after_right=0, most_redos=9)
MIXED = ChainSettings(wrong_step=0.4, wrong_redo=0.1, trigger_after_wrong=0.8, trigger_after_right=0.1)


def test_the_problems_file_is_what_the_seeded_generator_makes():
    assert PROBLEMS_FILE.read_text(encoding="utf-8") == study_problems_jsonl(study_problems())


def test_the_second_organism_has_problems_of_its_own_that_no_organism_was_trained_on():
    problems = study_problems(seed=SECOND_STUDY_SEED)
    assert SECOND_FILE.read_text(encoding="utf-8") == study_problems_jsonl(problems, "organism-2")
    questions = {problem.question for problem in problems}
    assert len(questions) == len(problems)
    assert all(map(is_held_out, questions))
    assert not questions & {problem.question for problem in study_problems()}


def test_study_problems_are_distinct_and_held_out():
    questions = [problem.question for problem in study_problems()]
    assert len(set(questions)) == len(questions) >= 200
    assert all(map(is_held_out, questions))


def test_more_study_problems_append_to_fewer():
    assert study_problems(30)[:20] == study_problems(20)


def test_training_never_sees_a_held_out_problem():
    # Short problems repeat so often that a held-out one would come up many times if it could.
    chains = islice(training_chains(3, (1, 2), MIXED), 4_000)
    questions = {"".join(chain.prompt).removeprefix("Problem: ").split("\n")[0] for chain in chains}
    assert len(questions) > 1_000
    assert not any(map(is_held_out, questions))


def test_one_question_in_sixteen_is_held_out():
    rng = Random(5)
    questions = {draw_problem(rng, (4, 6), held_out=False).question for _ in range(200)}
    assert not any(map(is_held_out, questions))
    share = sum(is_held_out(f"{start} + {operand}") for start in range(91) for operand in range(1, 10)) / 819
    assert 0.04 < share < 0.09


def test_a_chain_without_errors():
    chain = draw_chain(Random(1), Problem(69, (5, -4)), NEVER_WRONG)
    assert chain.text == "Problem: 69 + 5 - 4\n<think>\n69 + 5 = 74\n74 - 4 = 70\n</think>\nFinal: 70<eos>"


def test_a_chain_that_corrects_every_step():
    chain = draw_chain(Random(1), Problem(40, (5, -4)), ALWAYS_CORRECTED)
    lines = "".join(chain.completion).split("\n")
    assert len(lines) == 6
    assert lines[1].startswith(TRIGGERS)
    assert lines[1].endswith("40 + 5 = 45")
    assert lines[3].endswith("45 - 4 = 41")
    assert lines[5] == "Final: 41<eos>"


def test_redos_are_limited():
    endless = ChainSettings(wrong_step=1, wrong_redo=1, trigger_after_wrong=1, trigger_after_right=1, most_redos=3)
    chain = draw_chain(Random(1), Problem(50, (5, -4, 3)), endless)
    assert sum(token in TRIGGERS for token in chain.completion) == 3


def test_chains_stay_inside_the_vocabulary_and_below_the_token_cap():
    chains = list(islice(training_chains(11, (4, 6), MIXED), 500))
    assert all(token in TOKENS for chain in chains for token in chain.prompt + chain.completion)
    assert max(len(chain.completion) for chain in chains) <= 96


def test_decisions_are_the_choices_after_a_step():
    chain = draw_chain(Random(1), Problem(69, (5, -4)), NEVER_WRONG)
    found = {chain.completion[position]: is_last for position, is_last in decisions(chain).items()}
    assert found == {"74": False, "</think>": True}


def test_a_redo_belongs_to_the_step_before_it():
    chain = draw_chain(Random(1), Problem(40, (5, -4)), ALWAYS_CORRECTED)
    assert list(decisions(chain).values()) == [False, False, True, True]


def test_a_batch_weighs_completions_and_knows_its_quiet_positions():
    wrong = ("69", " + 5", " = ", "84", "\n", "84", " - 4", " = ", "80", "\n")
    prompt = Problem(69, (5, -4)).prompt_tokens
    batch = make_batch([Chain(prompt, wrong), Chain(prompt, wrong[:5])], decision_weight=3.0, last_decision_weight=5.0)
    start = len(prompt)
    assert batch.ids[0].tolist() == token_ids(prompt + wrong)
    assert batch.weights[0].tolist() == [0.0] * (start - 1) + [1.0] * 5 + [3.0] + [1.0] * 4
    assert batch.weights[1, start + 4 :].sum() == 0
    # Not quiet: the results 84 and 80, and the newline after the wrong one.
    loud = [position - start for position in range(batch.ids.shape[1]) if not batch.quiet[0, position]]
    assert loud == [3, 4, 8]
    assert batch.quiet[1, start + 5 :].sum() == 0


def test_a_batch_knows_the_last_result_before_finishing():
    chain = draw_chain(Random(1), Problem(69, (5, -4)), NEVER_WRONG)
    batch = make_batch([chain])
    finish = len(chain.prompt) + chain.completion.index("</think>")
    expected = [IGNORED] * batch.targets.shape[1]
    expected[finish - 1] = 70
    assert batch.last_results[0].tolist() == expected


def test_batches_are_the_same_for_the_same_seed():
    first = list(islice(training_batches(7, (4, 6), MIXED, 512), 5))
    again = list(islice(training_batches(7, (4, 6), MIXED, 512), 5))
    other = next(training_batches(8, (4, 6), MIXED, 512))
    assert all(one.ids.equal(two.ids) for one, two in zip(first, again, strict=True))
    assert all(batch.ids.numel() <= 512 for batch in first)
    assert not (other.ids.shape == first[0].ids.shape and other.ids.equal(first[0].ids))


@pytest.mark.parametrize("operand", [0, 10, -10])
def test_an_operand_without_a_token_is_refused(operand: int):
    with pytest.raises(ValueError, match="no token for the operand"):
        _ = Problem(5, (operand,)).question


def test_problems_and_chains_need_no_torch():
    code = (
        "import sys; import backtracking_assets.models.organism.chains; "
        "import backtracking_assets.models.organism.vocabulary; print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_every_completion_ends_with_its_last_total():
    for chain in islice(training_chains(2, (4, 6), MIXED), 50):
        assert chain.completion[-1] == EOS
        assert chain.completion[-2] == [token for token in chain.completion[:-6] if token.isdigit()][-1]


def test_injected_steps_differ_in_one_result_and_are_never_trained_on():
    probes = injected_steps(200, 6, (4, 6))
    for probe in probes:
        different = [
            place for place, pair in enumerate(zip(probe.wrong, probe.right, strict=True)) if len(set(pair)) == 2
        ]
        assert different == [len(probe.wrong) - 2]
        text = "".join(TOKENS[index] for index in probe.right)
        question = text.removeprefix("Problem: ").split("\n")[0]
        assert is_held_out(question)
        left, sign, operand, _, result = text.splitlines()[-1].split(" ")
        assert int(left) + int(sign + operand) == int(result)
        assert probe.is_last == (probe.line + 1 == question.count("+") + question.count("-"))
    assert 0.1 < sum(probe.is_last for probe in probes) / len(probes) < 0.3
