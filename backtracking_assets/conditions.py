"""A condition: what decides the distribution of a completion given its prompt. Its digest is the fingerprint."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from backtracking_assets.records import Component, Problem

GENERATOR_VERSION = "1"
"""Raised whenever a change of the engine or the sampler changes which completions come out."""


class Intervention(BaseModel):
    """What acts at decode steps only, so that the prompt is read unchanged.

    Either block outputs are scaled before they are added to the residual stream, towards zero or towards their means,
    or the logits of the trigger tokens are moved by the logarithm of the scale.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    components: tuple[tuple[int, Component], ...]
    """Pairs (layer, component), sorted, without repetition; none where logits are moved."""
    scale: float
    means_digest: str | None = None
    """Of the components' mean outputs, towards which is scaled; None is towards zero, and not in the digest."""
    trigger_ids: tuple[int, ...] | None = None
    """Tokens whose logits are moved, sorted; None where components are scaled, and not in the digest."""

    @property
    def n_acting(self) -> int:
        """What acts in one decode step: each component once, or the move of the logits."""
        return len(self.components) if self.trigger_ids is None else 1

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Conditions that were stored before there were such interventions keep their fingerprints.
        return {key: value for key, value in serialize(self).items() if value is not None}


@dataclass(frozen=True)
class Composition:
    """What a layer subset acts on, whatever the scale."""

    components: tuple[tuple[int, Component], ...] = ()
    means_digest: str | None = None
    trigger_tokens: Mapping[int, str] | None = None
    """Id and text of the tokens whose logits are moved; None where components are scaled."""

    def at(self, scale: float) -> Intervention:
        """The intervention at a scale, 1.0 included, where it changes nothing."""
        ids = None if self.trigger_tokens is None else tuple(sorted(self.trigger_tokens))
        return Intervention(
            components=tuple(sorted(set(self.components))),
            scale=float(scale),
            means_digest=self.means_digest,
            trigger_ids=ids,
        )

    def names(self) -> list[str]:
        """Its parts as people write them: `attention.15`, `attention towards mean.15`, `odds of token.'Wait'`."""
        towards = "" if self.means_digest is None else " towards mean"
        scaled = [f"{component}{towards}.{layer}" for layer, component in sorted(set(self.components))]
        return scaled + [f"odds of token.{text!r}" for _, text in sorted((self.trigger_tokens or {}).items())]

    def identity(self) -> list[str]:
        """What tells it from every other: its names, and the digest where they do not say all of it."""
        plain = self.means_digest is None and self.trigger_tokens is None
        return self.names() if plain else [*self.names(), self.digest]

    @property
    def digest(self) -> str:
        """Digest of all of it; of components that are scaled towards zero, of their pairs alone."""
        facts = self.at(0.0).model_dump(mode="json")
        return digest(facts["components"] if len(facts) == 2 else {**facts, "scale": None})


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

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of the canonical JSON. Kept with the condition, so change a copy by making it anew."""
        return digest(self._facts())

    def _facts(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"assistant_prefix"} if self.assistant_prefix is None else None)


def canonical_intervention(
    components: Iterable[tuple[int, Component]],
    scale: float,
    *,
    means_digest: str | None = None,
    trigger_ids: Iterable[int] | None = None,
) -> Intervention | None:
    """The intervention in the one form that is fingerprinted; None where it would change nothing."""
    tokens = None if trigger_ids is None else dict.fromkeys(trigger_ids, "")
    intervention = Composition(tuple(components), means_digest, tokens).at(scale)
    return None if scale == 1.0 or not (intervention.components or intervention.trigger_ids) else intervention


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN, which has no JSON form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Hexadecimal sha256 of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def problem_set_digest(problems: Iterable[Problem]) -> str:
    """Digest of a set of problems: ids, questions and answers, whatever their order."""
    return digest(sorted([problem.problem_id, problem.question, problem.answer] for problem in problems))
