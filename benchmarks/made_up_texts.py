"""Completions of about 2,000 characters to measure reading on, made up from a seed; no two are alike.

`chains` is what the organism writes, of longer problems; `prose` is how a reasoning model writes about word problems:
sentences with numbers, equations, doubts and triggers, most with an answer, one in twenty breaking down.
"""

import re
from datetime import UTC, datetime
from random import Random
from typing import Any

import pyarrow as pa

from backtracking_assets.experiment_sections import Detection
from backtracking_assets.models.organism.chains import ChainSettings, draw_chain, draw_problem
from backtracking_assets.models.organism.vocabulary import TOKEN_IDS
from backtracking_assets.records import COMPLETIONS, Problem

LENGTH = 2_000
STRICT = ("Wait", "Actually", "Hold on")
CHAIN_RULES = Detection(strict=STRICT, steps="arithmetic_chain")
PROSE_RULES = Detection(strict=STRICT, relaxed=("Let me check", "Let's check", "I was wrong", "mistake"))

_HABITS = ChainSettings(wrong_step=0.1, wrong_redo=0.1, trigger_after_wrong=0.7, trigger_after_right=0.03)
_NAMES = ("Nadia", "Omar", "Priya", "Tom", "Lena", "Marcus", "Yuki", "Elena", "Sam", "Ravi", "Chloe", "Igor")
_NOUNS = (
    "apples",
    "pages",
    "liters",
    "tickets",
    "boxes",
    "marbles",
    "chairs",
    "miles",
    "stamps",
    "cookies",
    "students",
)
_VERBS = ("buys", "sells", "reads", "finds", "counts", "packs", "carries", "saves", "needs", "loses")
_PLACES = ("in the morning", "at the market", "on Friday", "every week", "for the party", "before lunch", "at school")
_SENTENCES = (
    "{name} {verb} {a} {noun} {place}.",
    "So {name} has {a} + {b} = {sum} {noun} in total.",
    "That means {a} × {b} = {product} {noun}.",
    "First, I need to work out how many {noun} {name} {verb} {place}.",
    "If each of the {a} {noun} costs ${b}, then the total cost is ${product}.",
    "The problem says that {name} {verb} twice as many {noun} as {other}, who has {a}.",
    "So, {a} - {b} is {difference}, which leaves {difference} {noun} for {other}.",
    "Okay, so let me think about this step by step.",
    "Hmm, I'm not sure whether the {noun} are counted {place} or not.",
    "Let x be the number of {noun}, then x + {a} = {sum}, so x = {b}.",
    "\\[ {a} + {b} = {sum} \\]",
    "\\( {a} \\times {b} = {product} \\)",
    "Therefore, the number of {noun} is {sum}.",
    "Now, let's add the {noun} that {name} {verb} {place}: {a} + {b} + {c} = {three}.",
    "Half of {double} is {a}, and then there are {b} more {noun} {place}.",
    "In total {name} and {other} have {sum} {noun}, because {a} of them are his and {b} are hers.",
    "{other} {verb} the rest, and the question asks how many {noun} are left.",
    "So the answer should be {sum}, I think, but it's a bit confusing.",
    "The remaining {noun} are divided by {b}, that's {product} / {b} = {a} each.",
    "Since {a} is greater than {c}, we can't just subtract the {noun} from what {name} had.",
)
_TRIGGERS = (
    "Wait, is that right? {a} + {b} = {sum}. Yes, that's right.",
    "Wait, {a} + {b} is {sum}, not {wrong}.",
    "Wait, no. I forgot the {c} {noun} that {name} {verb}, so it's {three}.",
    "Hold on, the problem says {c} {noun}, so maybe I should multiply instead.",
    "Actually, it's easier to count the {noun} directly.",
    "Let me check: {a} × {b} = {product}, and that matches.",
    "I think I made a mistake there. {a} + {b} = {sum}.",
    "Wait, maybe {name} {verb} {noun} only {place}.",
)
_SLIP = "So {a} + {b} = {wrong}."
_ENDS = (
    "\n</think>\n\n{name} has {sum} {noun} left.\n\nFinal: {sum}",
    "\n</think>\n\nThe total is \\boxed{{{sum}}}",
    "\n</think>\n\n**Final:** {sum} {noun}",
    "\n</think>\n\nSo {name} has \\boxed{{\\frac{{{a}}}{{{b}}}}} of the {noun}.\nFinal: {a}/{b}",
    "",
)
_TOKEN = re.compile(r"\s?[A-Za-z]+|[0-9]|\s+|[^A-Za-z0-9\s]")


def chains(n: int, seed: int = 0) -> tuple[pa.Table, dict[str, Problem]]:
    """``n`` completions of the organism's kind, each of a problem of its own, and the problems."""
    rng = Random(seed)
    rows: list[dict[str, Any]] = []
    problems: dict[str, Problem] = {}
    for number in range(n):
        drawn = draw_problem(rng, (145, 155), held_out=False)
        name = f"chain-{number:06d}"
        problems[name] = Problem(name, drawn.question, str(drawn.answer))
        tokens = [*draw_chain(rng, drawn, _HABITS).completion[:-1]]
        rows.append(_row(name, tokens, [TOKEN_IDS[token] for token in tokens]))
    return pa.Table.from_pylist(rows, schema=COMPLETIONS), problems


def prose(n: int, seed: int = 0) -> tuple[pa.Table, dict[str, Problem]]:
    """``n`` completions in running text, four of each problem, and the problems."""
    rng = Random(seed)
    rows: list[dict[str, Any]] = []
    problems: dict[str, Problem] = {}
    ids: dict[str, int] = {}
    for number in range(n):
        name = f"prose-{number // 4:06d}"
        values = _values(rng)
        problems.setdefault(name, Problem(name, f"How many {values['noun']} are left?", str(values["sum"])))
        tokens = _TOKEN.findall(_text(rng, values))
        rows.append(_row(name, tokens, [ids.setdefault(t, len(ids)) for t in tokens], sample_id=number % 4))
    return pa.Table.from_pylist(rows, schema=COMPLETIONS), problems


def _text(rng: Random, values: dict[str, Any]) -> str:
    parts: list[str] = []
    length = 0
    breaks_down = LENGTH * rng.random() if rng.random() < 0.05 else LENGTH
    while length < breaks_down - 60:
        drawn = values if rng.random() < 0.3 else _values(rng)
        sentence = rng.choice(_TRIGGERS if rng.random() < 0.15 else _SENTENCES if rng.random() < 0.95 else (_SLIP,))
        parts.append(sentence.format(**drawn) + ("\n\n" if rng.random() < 0.25 else " "))
        length += len(parts[-1])
    while length < LENGTH - 60:
        parts.append(parts[-1])
        length += len(parts[-1])
    return "".join(parts) + rng.choice(_ENDS).format(**values)


def _values(rng: Random) -> dict[str, Any]:
    a, b, c = rng.randint(2, 400), rng.randint(2, 40), rng.randint(2, 60)
    numbers = {"a": a, "b": b, "c": c, "sum": a + b, "difference": a - b, "product": a * b, "double": 2 * a}
    words = {"noun": rng.choice(_NOUNS), "verb": rng.choice(_VERBS), "place": rng.choice(_PLACES)}
    name, other = rng.sample(_NAMES, 2)
    return numbers | words | {"three": a + b + c, "wrong": a + b + rng.choice((-10, 10)), "name": name, "other": other}


def _row(problem_id: str, tokens: list[str], token_ids: list[int], *, sample_id: int = 0) -> dict[str, Any]:
    starts, length = [], 0
    for token in tokens:
        starts.append(length)
        length += len(token)
    return {
        "fingerprint": "made up",
        "problem_id": problem_id,
        "sample_id": sample_id,
        "prompt_sha256": "0" * 64,
        "text": "".join(tokens),
        "token_ids": token_ids,
        "token_starts": starts,
        "n_prompt_tokens": 12,
        "n_tokens": len(tokens),
        "finish_reason": "eos" if sample_id < 3 else "length",
        "n_firings": 0,
        "chunk_id": "chunk",
        "device": "cpu",
        "run_id": "run",
        "generated_at": datetime(2024, 1, 1, tzinfo=UTC),
        "chunk_seconds": 1.0,
        "batch_rows": 4,
    }
