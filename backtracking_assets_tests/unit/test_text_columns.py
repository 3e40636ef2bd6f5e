"""What is read from many texts at once is what is read from each by itself, by the plain rules."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking_assets.analysis import answers
from backtracking_assets.analysis.arithmetic_steps import changed_redos, read_steps
from backtracking_assets.analysis.backtracking_classes import classify_chain
from backtracking_assets.analysis.class_columns import chain_classes
from backtracking_assets.analysis.degeneration import LONGEST_UNIT, degeneration_rule, degeneration_rules
from backtracking_assets.analysis.detection import STEP_COLUMNS, detect
from backtracking_assets.analysis.event_columns import event_columns
from backtracking_assets.analysis.golden_set import read_passages
from backtracking_assets.analysis.revision_cues import cues_of
from backtracking_assets.analysis.revisions import blinded, find_revisions, unquoted
from backtracking_assets.analysis.step_columns import read_step_columns
from backtracking_assets.analysis.text_columns import TextColumn, events_of
from backtracking_assets.analysis.triggers import find_events, onset
from backtracking_assets.experiment_sections import Detection
from backtracking_assets.records import DETECTIONS
from backtracking_assets_tests.unit.analysis_samples import RULES, sample_completions, sample_problems

_ODD_RULES = Detection(strict=("Wait", "It’s", "no"), relaxed=("no way", "I was wrong", "x"), degenerate_repeats=3)
_SYMBOL_RULES = Detection(strict=("Wait", "…hm"), relaxed=("é",))
_WORDS = (
    *("Wait", "wait", "WAIT,", "Waıt", "Hold on", "Hold\u00a0on", "hold\t\n on", "Actually", "I was wrong", "mistake"),
    *("It's", "It’s", "no way", "no,", ". No.", "that's not right", "That is wrong", "is off", "not", "and not", ","),
    *("instead of", "instead", "rather than", "rather", "sorry", "oops", "I forgot", "scratch that", "I mean"),
    *(
        "let me re-read",
        "the other way around",
        "a better way",
        "yes",
        "that's right",
        "makes sense",
        "the same",
        "but",
    ),
    *("70", "5 - 4 = 1", "69 + 5 = 74", "=", "is", "the total", "$3.50", "1,000", "½", "²", "٣", "the answer is 7"),
    *("Final:", "**Final:** 7", "final answer", "FİNAL: 3", "\\boxed{7}", "</think>", "<think>", '"', "“", "”", "'"),
    *("é", "İ", "ſ", "K", "…", "—", "\x0b", "\u2028", "\x00", "\ud800", "1wait", "wait1", "_no", "x", "a", "🎉"),
)
_PIECES = st.sampled_from(_WORDS) | st.text(st.characters(exclude_categories=()), max_size=6)
_GAPS = st.sampled_from([" ", " ", " ", "", "\n", "\n\n", "  ", ", ", "\t"])
_TEXTS = st.lists(st.tuples(_PIECES, _GAPS, st.sampled_from([1, 1, 1, 1, 2, 6, 12])), max_size=25).map(
    lambda parts: "".join((piece + gap) * times for piece, gap, times in parts)
)


def golden_texts() -> list[str]:
    return [passage.text for passage in read_passages()]


@settings(max_examples=150, deadline=None)
@given(st.lists(_TEXTS, max_size=6), st.sampled_from([RULES, _ODD_RULES, _SYMBOL_RULES]))
def test_triggers_of_many_texts_are_those_of_each(texts: list[str], rules: Detection) -> None:
    assert events_of(TextColumn(texts), rules) == [find_events(text, rules) for text in texts]


@settings(max_examples=100, deadline=None)
@given(st.lists(_TEXTS, max_size=5))
def test_cues_lose_no_revision(texts: list[str]) -> None:
    blind = [blinded(text, find_events(text, RULES)) for text in texts]
    cues = cues_of(TextColumn([unquoted(text) for text in blind]))
    for text, own in zip(blind, cues, strict=True):
        assert find_revisions(text, cues=own) == find_revisions(text)


def test_cues_lose_no_revision_of_the_golden_set() -> None:
    blind = [blinded(text, find_events(text, RULES)) for text in golden_texts()]
    cues = cues_of(TextColumn([unquoted(text) for text in blind]))
    found = [find_revisions(text, cues=own) for text, own in zip(blind, cues, strict=True)]
    assert found == [find_revisions(text) for text in blind]
    assert sum(map(len, found)) > 50
    assert sum(own is None for own in cues) < 10  # otherwise nothing is compared


@settings(max_examples=150, deadline=None)
@given(_TEXTS, st.sampled_from(["Final:", "the answer is", "**Final", ":", "ſinal", "Final Answer:"]))
def test_the_last_marked_line_is_found_from_the_end(text: str, marker: str) -> None:
    expected = None
    for line in answers._marker_line(marker).finditer(text):
        expected = line.group(1)
    assert answers._last_marked(text, answers.folded_ascii(text), marker) == expected


_LINES = st.sampled_from(
    [
        *(
            "1 + 1 = 2",
            "1 + 1 = 3",
            "2 + 1 = 3",
            "3 - 1 = 2",
            "1 + 0 = 1",
            " 2 + 1 = 2 ",
            "= 4",
            "Wait",
            "Wait, ",
            "Wa",
        ),
        *("Hold ", "wait1+1=2", "</think>", "<think>", "</thi", "", "", "\t", "\r", "actually, 2 + 1 = 2", "x"),
    ]
)
_CHAINS = st.lists(st.tuples(_LINES, st.sampled_from(["\n", "\n", "\n", ""])), max_size=14).map(
    lambda lines: "".join(line + end for line, end in lines)
)
_QUESTIONS = st.sampled_from(
    ["1 + 1 + 1 - 1", "1 + 0 + 0", "1", "How many?", "1 + 1 + 1 + 1 - 1 - 1", "1 + 1 of 3 + 2"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_CHAINS, _QUESTIONS), max_size=4), st.sampled_from([1, 1, 12]))
def test_steps_of_many_texts_are_those_of_each(rows: list[tuple[str, str]], times: int) -> None:
    rows = rows * times  # many are followed side by side, few one by one
    columns = read_step_columns([text for text, _ in rows], [question for _, question in rows], RULES)
    for number, (text, question) in enumerate(rows):
        steps = read_steps(text, RULES, question)
        counts = {name: columns.counts[name][number] for name in STEP_COLUMNS}
        assert counts == {name: getattr(steps, name) for name in STEP_COLUMNS}
        first, end = columns.firsts[number : number + 2]
        assert columns.starts[first:end].tolist() == [step.start for step in steps.steps]
        assert columns.ends[first:end].tolist() == [step.end for step in steps.steps]
        redos = columns.redos[(columns.redos >= first) & (columns.redos < end)]
        assert columns.starts[redos].tolist() == [step.start for step in changed_redos(steps, question)]


@settings(max_examples=100, deadline=None)
@given(st.lists(_TEXTS, max_size=6), st.sampled_from([RULES, _ODD_RULES]))
def test_many_texts_break_down_as_each_does(texts: list[str], rules: Detection) -> None:
    tokens = [np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.int32) for text in texts]
    expected = [degeneration_rule(text, own, rules) for text, own in zip(texts, tokens, strict=True)]
    assert degeneration_rules(TextColumn(texts), tokens, rules) == expected


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(3, 7))
def test_no_sample_misses_a_repeated_unit(data: st.DataObject, repeats: int) -> None:
    unit = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=LONGEST_UNIT))
    before = data.draw(st.lists(st.integers(0, 3), max_size=40))
    other = data.draw(st.lists(st.integers(4, 9), max_size=60))
    times = 2 * repeats if len(set(unit)) == 1 else repeats
    rules = RULES.model_copy(update={"degenerate_repeats": repeats})
    tokens = [np.array(row, dtype=np.int32) for row in (other, before + unit * times, other)]
    found = degeneration_rules(TextColumn(["words", "other words", "words"]), tokens, rules)
    assert found[1] in ("repeated_token", "repeated_phrase")
    assert found[0] == degeneration_rule("words", tokens[0], rules)


_LONG_LINES = st.sampled_from(
    ["1" * 12 + " + 1 = 2", "-5 - 12 = -17", "Wait,   1 + 1 = 2" + " " * 30, "é", "1 + 1 = 2\0", "x" * 33]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_LINES | _LONG_LINES, max_size=8), min_size=1, max_size=4))
def test_lines_of_any_length_are_known_again(texts: list[list[str]]) -> None:
    joined = ["\n".join(lines) for lines in texts]
    for _ in range(2):  # what the first time remembered is what the second finds
        columns = read_step_columns(joined, [""] * len(joined), RULES)
        steps = [read_steps(text, RULES) for text in joined]
        assert list(columns.counts["n_steps"]) == [own.n_steps for own in steps]
        assert list(columns.counts["n_unreadable_lines"]) == [own.n_unreadable_lines for own in steps]
        assert columns.ends.tolist() == [step.end for own in steps for step in own.steps]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(_CHAINS, _QUESTIONS, st.booleans(), st.booleans()), min_size=1, max_size=5))
def test_classes_of_many_chains_are_those_of_each(rows: list[tuple[str, str, bool, bool]]) -> None:
    texts = [text for text, _, _, _ in rows]
    of_texts = [find_events(text, RULES) for text in texts]
    events, steps = event_columns(of_texts), read_step_columns(texts, [question for _, question, _, _ in rows], RULES)
    degenerate, cut_off = (np.array([row[number] for row in rows]) for number in (2, 3))
    found = chain_classes(np.array(list(map(len, texts))), events, steps, degenerate, cut_off)
    expected = [
        classify_chain(text, own, read_steps(text, RULES, question), question, degenerate=broken, cut_off=cut)
        for (text, question, broken, cut), own in zip(rows, of_texts, strict=True)
    ]
    assert found.completions.to_pylist() == [own.completion for own in expected]
    assert events.lists(found.events).to_pylist() == [list(own.events) for own in expected]
    assert found.n_silent.tolist() == [own.n_silent for own in expected]
    for name, counts in (("genuine", found.n_genuine), ("filler", found.n_filler)):
        assert counts.tolist() == [own.events.count(name) for own in expected]


@pytest.mark.parametrize("priority", ["strict", "earliest"])
def test_onsets_of_many_texts_are_those_of_each(priority: Literal["strict", "earliest"]) -> None:
    rules = RULES.model_copy(update={"priority": priority})
    of_texts = [find_events(text, rules) for text in [*golden_texts(), "nothing", "I was wrong. Wait"]]
    places, none = event_columns(of_texts).onsets(priority)
    flat = [event for own in of_texts for event in own]
    found = [None if absent else flat[place] for place, absent in zip(places.tolist(), none.tolist(), strict=True)]
    assert found == [onset(own, rules) for own in of_texts]


def test_completions_in_any_order_give_the_same_table() -> None:
    completions, problems = sample_completions(20, 2), sample_problems(20)
    shuffled = completions.take(np.random.default_rng(0).permutation(completions.num_rows))
    in_order = detect(completions, problems, RULES, run_id="r")
    assert detect(shuffled, problems, RULES, run_id="r").equals(in_order)
    assert detect(in_parts(completions), problems, RULES, run_id="r").equals(in_order)


def in_parts(table: pa.Table) -> pa.Table:
    """The same table in chunks of seven rows."""
    return pa.concat_tables([table.slice(begin, 7) for begin in range(0, table.num_rows, 7)])


def test_a_table_is_read_as_its_rows_are() -> None:
    completions, problems = sample_completions(30, 2), sample_problems(30)
    whole = detect(completions, problems, RULES, run_id="r")
    assert whole.schema == DETECTIONS
    for number in range(0, completions.num_rows, 7):
        assert detect(completions.slice(number, 1), problems, RULES, run_id="r").equals(whole.slice(number, 1))
    assert len(set(whole.column("completion_class").to_pylist())) > 1


def test_the_benchmark_runs() -> None:
    script = Path(__file__).parents[2] / "benchmarks/detection.py"
    command = [sys.executable, str(script), "--kind", "prose", "--completions", "6", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["completions_a_second"]["median"] > 0
    assert found["part_microseconds"].keys() == {"triggers", "degeneration", "answers", "classes"}
