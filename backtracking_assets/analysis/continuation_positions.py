"""Choosing where the continuation ablation looks: strict events of the baseline, and matched positions without one."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backtracking_assets.analysis.triggers import find_events, token_at
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.experiment_sections import Detection
from backtracking_assets.records import PositionKind

CONTINUATION_VERSION = "1"
"""Raised whenever other positions are chosen, or other values come from the same positions."""

Key = tuple[str, int]
"""(problem id, sample id) of a completion of the baseline."""


class EventChoice(Protocol):
    """How many events are wanted, and what decides which: a section of the experiment file."""

    @property
    def events(self) -> int: ...

    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class ChosenPosition:
    """A place in a completion of the baseline: before one of its tokens, which is not its first."""

    problem_id: str
    sample_id: int
    token_index: int
    """Index into the completion's tokens of the token that is predicted; at least 1."""
    kind: PositionKind
    event: Key
    """The event that a control is matched with; an event's own key."""
    onset_token_id: int
    """The token that began the event; at a control, that of its event."""
    drawn_token_id: int
    """The token that the baseline drew here."""
    before: tuple[int, ...]
    """The completion's tokens before the position; never empty."""

    @property
    def key(self) -> Key:
        return self.problem_id, self.sample_id


@dataclass(frozen=True)
class Chosen:
    """The positions that are looked at, and what was left out."""

    positions: tuple[ChosenPosition, ...]
    """Events in the order in which they were drawn, then the controls in the order of their events."""
    n_found: int
    """Completions of the baseline with a strict event."""
    n_at_first_token: int
    """Those whose event begins with the first token. Prefill predicts it, and no intervention acts there."""
    n_without_event: int
    """Completions without any event, strict or relaxed: where controls are taken from."""

    def of(self, kind: PositionKind) -> tuple[ChosenPosition, ...]:
        return tuple(position for position in self.positions if position.kind == kind)


@dataclass(frozen=True)
class ObservedTriggers:
    """The strict triggers as a table of completions writes them."""

    texts: tuple[str, ...]
    """Their words in each case and spacing that occurs, sorted."""
    first_token_ids: frozenset[int]
    """The tokens in which they begin."""


def choose_positions(
    completions: pa.Table, detections: pa.Table, settings: EventChoice, *, section: str = "continuation"
) -> Chosen:
    """Choose at most `settings.events` events, and a matched position without an event for each of them.

    A completion's event is its first strict one. Where there are more than wanted, they are drawn evenly over the
    problems: the event of lowest hash of (seed, problem, sample) of every problem first, then the second of every
    problem that has one, and so on. Intervals are clustered by problem, so a further problem tells more than a further
    event of the same one.

    A control lies in a completion without any event, behind the same token as its event, and at the nearest token
    index; of equally near ones the same problem's is taken, then the lowest hash. Each completion serves once. An event
    for which no completion is left that holds such a token stays without a control.

    Args:
        completions: rows of `records.COMPLETIONS` of one condition.
        detections: rows of `records.DETECTIONS` of the same completions.
        section: of the experiment file, that asks for it.

    Raises:
        BacktrackingError: there is no event to look at, or a completion has no detection.
    """
    tokens = {key: np.asarray(ids) for key, ids in zip(_keys(completions), _lists(completions), strict=True)}
    found: dict[Key, int] = {}
    without: list[Key] = []
    for row in detections.select(["problem_id", "sample_id", "first_strict_token", "has_relaxed"]).to_pylist():
        key = (row["problem_id"], row["sample_id"])
        if key not in tokens:
            raise BacktrackingError(f"Sample {key[1]} of problem {key[0]!r} has a detection and no completion.")
        if row["first_strict_token"] is not None:
            found[key] = row["first_strict_token"]
        elif not row["has_relaxed"]:
            without.append(key)
    usable = {key: index for key, index in found.items() if index > 0}
    if not usable:
        raise BacktrackingError(
            f"The baseline has no strict event after a completion's first token ({len(found)} of {len(tokens)} "
            "completions have one at all), so there is nothing to look at; check detection.strict, or remove the "
            f"section {section}."
        )
    events = [_event(key, usable[key], tokens[key]) for key in _drawn(list(usable), settings)]
    controls = _controls(events, {key: tokens[key] for key in without}, settings.seed)
    return Chosen(
        positions=(*events, *controls),
        n_found=len(found),
        n_at_first_token=len(found) - len(usable),
        n_without_event=len(without),
    )


def observed_triggers(completions: pa.Table, rules: Detection) -> ObservedTriggers:
    """Every strict trigger in the completions, given as rows of `records.COMPLETIONS`."""
    texts, first_tokens = set(rules.strict), set()
    columns = (completions.column(name).to_pylist() for name in ("text", "token_starts"))
    for text, starts, ids in zip(*columns, _lists(completions), strict=True):
        for event in find_events(text, rules):
            if event.kind == "strict":
                texts.add(text[event.start : event.end])
                first_tokens.add(int(ids[token_at(starts, event.start)]))
    return ObservedTriggers(tuple(sorted(texts)), frozenset(first_tokens))


def _drawn(keys: list[Key], settings: EventChoice) -> list[Key]:
    """At most the wanted number of keys, as evenly over problems as they allow."""
    by_problem: dict[str, list[Key]] = {}
    for key in sorted(keys, key=lambda key: _rank(settings.seed, "event", key)):
        by_problem.setdefault(key[0], []).append(key)
    turns = {key: turn for own in by_problem.values() for turn, key in enumerate(own)}
    return sorted(keys, key=lambda key: (turns[key], _rank(settings.seed, "event", key)))[: settings.events]


def _event(key: Key, index: int, tokens: npt.NDArray[np.int32]) -> ChosenPosition:
    onset = int(tokens[index])
    return ChosenPosition(*key, index, "event", key, onset, onset, tuple(tokens[:index].tolist()))


def _controls(events: list[ChosenPosition], free: dict[Key, npt.NDArray[np.int32]], seed: int) -> list[ChosenPosition]:
    controls: list[ChosenPosition] = []
    ranks = {key: _rank(seed, "control", key) for key in free}
    for event in events:
        nearest: tuple[tuple[int, bool, bytes], Key, int] | None = None
        for key, tokens in free.items():
            # Positions behind the same token; the last token of a completion has none behind it.
            places = np.flatnonzero(tokens[:-1] == event.before[-1]) + 1
            if len(places) == 0:
                continue
            place = int(places[np.abs(places - event.token_index).argmin()])
            order = (abs(place - event.token_index), key[0] != event.problem_id, ranks[key])
            if nearest is None or order < nearest[0]:
                nearest = (order, key, place)
        if nearest is None:
            continue
        _, key, place = nearest
        tokens = free.pop(key)
        drawn, before = int(tokens[place]), tuple(tokens[:place].tolist())
        controls.append(ChosenPosition(*key, place, "control", event.key, event.onset_token_id, drawn, before))
    return controls


def _rank(seed: int, purpose: str, key: Key) -> bytes:
    return hashlib.sha256(f"{seed}\x00{purpose}\x00{key[0]}\x00{key[1]}".encode()).digest()


def _keys(table: pa.Table) -> list[Key]:
    return list(zip(table.column("problem_id").to_pylist(), table.column("sample_id").to_pylist(), strict=True))


def _lists(completions: pa.Table) -> list[list[int]]:
    return completions.column("token_ids").to_pylist()
