"""A condition: what decides the distribution of a completion given its prompt. Its digest is the fingerprint."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from backtracking_assets.records import Component, Problem

GENERATOR_VERSION = "1"
"""Raised whenever a change of the engine or the sampler changes which completions come out."""


class Intervention(BaseModel):
    """Scaling of block outputs before they are added to the residual stream, at decode steps only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    components: tuple[tuple[int, Component], ...]
    """Pairs (layer, component), sorted, without repetition."""
    scale: float


class Condition(BaseModel):
    """Everything that a completion's distribution depends on, besides its prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator_version: str = GENERATOR_VERSION
    weights_digest: str
    tokenizer_digest: str
    dtype: str
    system: str | None
    chat_template: bool
    template: str
    assistant_prefix: str | None = None
    """Text that opens the answer after the chat template; None leaves that to the template and is not in the digest."""
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    intervention: Intervention | None
    """None is the baseline: scale 1.0 and an empty set of components drop out."""

    def canonical_json(self) -> str:
        return canonical_json(self._facts())

    @property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of the canonical JSON."""
        return digest(self._facts())

    def _facts(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"assistant_prefix"} if self.assistant_prefix is None else None)


def canonical_intervention(components: Iterable[tuple[int, Component]], scale: float) -> Intervention | None:
    """The intervention in the one form that is fingerprinted; None where it would change nothing."""
    pairs = tuple(sorted(set(components)))
    if not pairs or scale == 1.0:
        return None
    return Intervention(components=pairs, scale=float(scale))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN, which has no JSON form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Hexadecimal sha256 of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def problem_set_digest(problems: Iterable[Problem]) -> str:
    """Digest of a set of problems: ids, questions and answers, whatever their order."""
    return digest(sorted([problem.problem_id, problem.question, problem.answer] for problem in problems))
