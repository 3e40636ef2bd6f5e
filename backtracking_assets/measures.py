"""What is measured: the name, label, unit and denominator of every measure, in the order in which people read them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """One measure of a cell."""

    name: str
    label: str
    unit: Literal["share", "events per 1,000 tokens", "tokens"]
    per: Literal["completion", "answer", "wrong step", "right step", "step", "token"]
    description: str
    needs_steps: bool = False
    """Whether it needs the exact truth about steps, which only the organism's text gives."""
    compared: bool = True
    """Whether it belongs to the family of comparisons with the baseline."""


_ALL = (
    Measure(
        "wait_after_wrong_step",
        "Wait after a wrong step",
        "share",
        "wrong step",
        "Of the steps whose arithmetic is wrong, the share followed at once by a strict trigger.",
        needs_steps=True,
    ),
    Measure("strict_rate", "Strict rate", "share", "completion", "Completions with at least one strict trigger."),
    Measure("relaxed_rate", "Relaxed rate", "share", "completion", "Completions with at least one relaxed trigger."),
    Measure(
        "strict_per_1000_tokens",
        "Strict events per 1,000 tokens",
        "events per 1,000 tokens",
        "token",
        "Strict triggers over generated tokens: a rate that does not grow with the length of a completion.",
    ),
    Measure("accuracy", "Accuracy", "share", "completion", "Completions whose answer equals the reference answer."),
    Measure(
        "accuracy_of_answered",
        "Accuracy of answered",
        "share",
        "answer",
        "Of the completions in which an answer was found, the share whose answer equals the reference answer.",
    ),
    Measure(
        "accuracy_shuffled",
        "Accuracy against shuffled answers",
        "share",
        "completion",
        "Accuracy after the reference answers are shuffled among the problems: what a joining error would show.",
        compared=False,
    ),
    Measure(
        "wait_after_right_step",
        "Wait after a right step",
        "share",
        "right step",
        "Of the steps whose arithmetic is right, the share followed at once by a strict trigger.",
        needs_steps=True,
    ),
    Measure(
        "wrong_step_share",
        "Wrong steps",
        "share",
        "step",
        "Steps whose arithmetic is wrong: rises where an intervention breaks the arithmetic itself.",
        needs_steps=True,
    ),
    Measure(
        "off_chain_share",
        "Steps off the chain",
        "share",
        "step",
        "Steps that do not follow the problem: neither its next operation on the running total nor the last one again.",
        needs_steps=True,
    ),
    Measure(
        "corrected_share",
        "Wrong steps corrected",
        "share",
        "wrong step",
        "Of the wrong steps, the share followed by a strict trigger and then a right redo.",
        needs_steps=True,
        compared=False,
    ),
    Measure(
        "genuine_share",
        "Genuine backtracking",
        "share",
        "completion",
        "Completions in which a trigger announces a changed step.",
    ),
    Measure(
        "silent_share",
        "Silent revision",
        "share",
        "completion",
        "Completions without genuine backtracking in which a step is changed without a trigger.",
    ),
    Measure(
        "filler_share",
        "Filler trigger",
        "share",
        "completion",
        "Completions with a trigger behind which nothing changes, and without any changed step.",
    ),
    Measure(
        "neither_share",
        "Neither trigger nor revision",
        "share",
        "completion",
        "Completions that do not degenerate, have no trigger and change no step.",
        compared=False,
    ),
    Measure("truncated_share", "Truncated", "share", "completion", "Completions that ended at the token cap."),
    Measure("degenerate_share", "Degenerate", "share", "completion", "Completions that loop or break down."),
    Measure(
        "no_answer_share",
        "No answer",
        "share",
        "completion",
        "Completions in which no answer was found.",
    ),
    Measure(
        "non_finite_share",
        "Non-finite",
        "share",
        "completion",
        "Completions that ended on NaN or infinite logits.",
        compared=False,
    ),
    Measure("mean_tokens", "Mean length", "tokens", "completion", "Generated tokens a completion.", compared=False),
    Measure(
        "median_first_event_token",
        "Median token of the first strict event",
        "tokens",
        "completion",
        "Kaplan-Meier median of the position of the first strict trigger, censored at the completion's end.",
        compared=False,
    ),
)

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}


@dataclass(frozen=True)
class ContinuationMeasure:
    """One measure of the continuation ablation, at a position or of the continuations sampled from it."""

    name: str
    label: str
    unit: Literal["probability", "share", "rank", "nats"]
    description: str
    sampled: bool = False
    """Whether it is counted in sampled continuations; else it is read off the model's distribution at the position."""


_CONTINUATION = (
    ContinuationMeasure(
        "onset_probability",
        "Probability of the onset token",
        "probability",
        "Of the very token that began the event, at temperature 1.",
    ),
    ContinuationMeasure(
        "onset_first", "Onset token ranks first", "share", "Positions at which no token is more probable."
    ),
    ContinuationMeasure("onset_rank", "Rank of the onset token", "rank", "Mean rank; 1 is the most probable token."),
    ContinuationMeasure(
        "trigger_probability",
        "Probability of all trigger tokens",
        "probability",
        "Of all tokens that begin a strict trigger, together, at temperature 1.",
    ),
    ContinuationMeasure("entropy", "Entropy", "nats", "Of the next token's distribution at temperature 1."),
    ContinuationMeasure(
        "same_draw",
        "Same token drawn",
        "share",
        "Positions at which the baseline's own sampling noise still draws the baseline's token.",
    ),
    ContinuationMeasure(
        "comes_again",
        "Event comes again",
        "share",
        "Sampled continuations whose first words are a strict trigger.",
        sampled=True,
    ),
    ContinuationMeasure(
        "comes_within",
        "Event comes within the continuation",
        "share",
        "Sampled continuations with a strict trigger anywhere in their bounded length.",
        sampled=True,
    ),
)

CONTINUATION_MEASURES: dict[str, ContinuationMeasure] = {measure.name: measure for measure in _CONTINUATION}


@dataclass(frozen=True)
class BacktrackingFigure:
    """One figure of backtracking against accuracy within one condition."""

    name: str
    label: str
    unit: Literal["share", "difference", "ratio"]
    description: str


_BACKTRACKING = (
    BacktrackingFigure("backtracking_rate", "Strict rate", "share", "Completions with at least one strict trigger."),
    BacktrackingFigure("accuracy", "Accuracy", "share", "Completions whose answer equals the reference answer."),
    BacktrackingFigure("accuracy_with", "Accuracy with", "share", "The same of completions with a strict trigger."),
    BacktrackingFigure(
        "accuracy_without", "Accuracy without", "share", "The same of completions without a strict trigger."
    ),
    BacktrackingFigure("difference", "Difference", "difference", "Accuracy with minus accuracy without."),
    BacktrackingFigure("lift", "Lift", "ratio", "Accuracy with over accuracy without."),
    BacktrackingFigure(
        "difference_within",
        "Difference within a problem",
        "difference",
        "Of the problems with completions of both kinds: accuracy with minus accuracy without in the same problem, the "
        "mean over these problems.",
    ),
)

BACKTRACKING_FIGURES: dict[str, BacktrackingFigure] = {figure.name: figure for figure in _BACKTRACKING}
