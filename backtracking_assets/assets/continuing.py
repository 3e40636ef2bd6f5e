"""Measuring the continuation ablation: the baseline's events and matched positions, under every intervention."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from backtracking_assets.analysis.continuation_positions import (
    CONTINUATION_VERSION,
    Chosen,
    ChosenPosition,
    choose_positions,
    observed_triggers,
)
from backtracking_assets.analysis.continuation_texts import Reading, read_continuation
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.assets.loaded import loaded_model, means_for, prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.stored_cells import StoredCell, current_baseline
from backtracking_assets.conditions import digest
from backtracking_assets.errors import ExperimentError, StorageError
from backtracking_assets.execution.devices import device_name, lease_of
from backtracking_assets.experiment import Experiment
from backtracking_assets.plan import Continuation
from backtracking_assets.records import CONTINUATION_POSITIONS, CONTINUATION_SAMPLES, UNSCALED, Cell
from backtracking_assets.storage import queries
from backtracking_assets.storage.rows import table_of

if TYPE_CHECKING:  # torch is imported only where a model is needed
    from backtracking_assets.models.continuation import Outcome, Prefix
    from backtracking_assets.models.loading import LoadedModel

_CONTEXT_TOKENS = 8
"""Tokens before a position that are decoded with its continuation: what stands before a word decides whether it is
whole, and bytes of one character may be spread over several tokens."""


@dataclass(frozen=True)
class Measured:
    """Positions and sampled continuations, as rows of `records.CONTINUATION_POSITIONS` and `CONTINUATION_SAMPLES`."""

    positions: pa.Table
    samples: pa.Table
    trigger_tokens: dict[int, str]
    measured_now: bool
    """False where the store held them already."""


def settings_of(experiment: Experiment) -> Continuation:
    """The section of the experiment file.

    Raises:
        ExperimentError: it has none.
    """
    if experiment.continuation is None:
        raise ExperimentError(
            f"{experiment.source} has no section continuation, which says at how many events and under which "
            "interventions to look; add one, as docs/experiment-files.md describes it."
        )
    return experiment.continuation


def known_cells(opened: OpenExperiment) -> tuple[Cell, ...]:
    """The interventions of the experiment file, but for those whose subset waits for what it is made of."""
    cells = opened.experiment.continuation_cells()
    waiting = {name: opened.waits_for(name) for name in dict.fromkeys(cell.layer_subset for cell in cells)}
    return tuple(cell for cell in cells if waiting[cell.layer_subset] is None)


def required_baseline(opened: OpenExperiment) -> StoredCell:
    """The baseline whose events are looked at.

    Raises:
        StorageError: it is not there.
    """
    baseline = current_baseline(opened)
    if baseline is None:
        raise StorageError(
            "There are no events to look at: no cell at scale 1.0 is there and read by the rules as they are now; "
            "materialize the baseline, any subset at scale 1.0, first."
        )
    return baseline


def continuation_digest(opened: OpenExperiment, baseline: StoredCell) -> str:
    """Digest of what the positions and their continuations are computed from."""
    experiment = opened.experiment
    cells = known_cells(opened)
    return digest(
        {
            "version": CONTINUATION_VERSION,
            "baseline": baseline.version(),
            "settings": settings_of(experiment).model_dump(mode="json"),
            "components": [[cell.layer_subset, opened.composition(cell.layer_subset).identity()] for cell in cells],
        }
    )


def stored_summaries(opened: OpenExperiment) -> pa.Table | None:
    """The stored continuation ablation in figures; None where it is missing or computed from something else."""
    if opened.experiment.continuation is None or (baseline := current_baseline(opened)) is None:
        return None
    table = queries.continuation_summaries(opened.layout)
    wanted = {(continuation_digest(opened, baseline), statistics_digest(opened.experiment.statistics))}
    columns = (table[name].to_pylist() for name in ("continuation_digest", "statistics_digest"))
    return table if set(zip(*columns, strict=True)) == wanted else None


def stored_digest(opened: OpenExperiment) -> str | None:
    """Digest of what the stored continuation ablation was computed from; None where it is missing or outdated."""
    table = stored_summaries(opened)
    return None if table is None else table["continuation_digest"][0].as_py()


def chosen_positions(opened: OpenExperiment, baseline: StoredCell) -> Chosen:
    """The positions that are looked at.

    Raises:
        BacktrackingError: the baseline has no event to look at.
    """
    return choose_positions(baseline.completions, baseline.detections, settings_of(opened.experiment))


def measure_positions(
    opened: OpenExperiment, baseline: StoredCell, chosen: Chosen, *, run_id: str, log: Callable[[str], None]
) -> Measured:
    """Positions and continuations under every intervention: those of the store where they were computed from the same.

    Raises:
        BacktrackingError: no device is to be had, the checkpoint is unfit, or a value is NaN or infinite.
    """
    computed_from = continuation_digest(opened, baseline)
    positions = queries.continuation_positions(opened.layout)
    tokens = _trigger_tokens(opened, baseline)
    if positions["continuation_digest"].unique().to_pylist() == [computed_from]:
        return Measured(positions, queries.continuation_samples(opened.layout), tokens, measured_now=False)
    made = {"continuation_digest": computed_from, "run_id": run_id, "fingerprint": baseline.fingerprint}
    position_rows: list[dict[str, object]] = []
    sample_rows: list[dict[str, object]] = []

    with lease_of(opened.experiment, log) as device:
        loaded = loaded_model(opened, device)
        name = device_name(device)
        for batch, outcomes in _batches(opened, loaded, chosen.positions, tokens, log):
            for cell, outcome, readings in outcomes:
                position_rows += [{**row, **made, "device": name} for row in _position_rows(cell, batch, outcome)]
                sample_rows += [{**row, **made} for row in _sample_rows(cell, batch, outcome, readings)]
    return Measured(
        table_of(position_rows, CONTINUATION_POSITIONS),
        table_of(sample_rows, CONTINUATION_SAMPLES),
        tokens,
        measured_now=True,
    )


def _trigger_tokens(opened: OpenExperiment, baseline: StoredCell) -> dict[int, str]:
    from backtracking_assets.models.loading import load_tokenizer
    from backtracking_assets.models.trigger_tokens import trigger_tokens

    observed = observed_triggers(baseline.completions, opened.experiment.detection)
    tokenizer = load_tokenizer(opened.checkpoint.folder, opened.experiment.model.round_trip)
    return trigger_tokens(tokenizer, observed.texts, observed.first_token_ids)


_Readings = Callable[[int, tuple[int, ...]], Reading]


def _batches(
    opened: OpenExperiment,
    loaded: "LoadedModel",
    positions: Sequence[ChosenPosition],
    tokens: dict[int, str],
    log: Callable[[str], None],
) -> Iterator[tuple[list[ChosenPosition], list[tuple[Cell, "Outcome", _Readings]]]]:
    """Each batch of positions with what every cell makes of it. What is batched together follows from the positions."""
    from backtracking_assets.models.continuation import ReadingSettings, continue_prefixes

    experiment = opened.experiment
    settings = settings_of(experiment)
    cells = known_cells(opened)
    interventions = [opened.condition(cell).intervention for cell in cells]
    towards_means = next((one for one in interventions if one is not None and one.means_digest is not None), None)
    prompt_of = prompts(opened)
    sizes = {p.key: len(prompt_of[p.problem_id].token_ids) + p.token_index for p in positions}
    ordered = sorted(positions, key=lambda p: (sizes[p.key], p.key))  # of like length, so that little is padded
    # A batch's keys and values take no more memory than those of a chunk of completions.
    longest_prompt = max(len(prompt.token_ids) for prompt in prompt_of.values())
    most_tokens = experiment.generation.completions_per_chunk * (longest_prompt + experiment.sampling.max_new_tokens)
    sampling = experiment.sampling.model_copy(update={"max_new_tokens": settings.max_new_tokens})
    start = 0
    while start < len(ordered):
        batch = _next_batch(ordered[start:], sizes, most_tokens, settings)
        prefixes = [_prefix(p, prompt_of[p.problem_id].token_ids, settings) for p in batch]
        readings = _reader(loaded, batch, experiment)
        reading = ReadingSettings(
            sampling=sampling,
            trigger_ids=tokens.keys(),
            stop_ids=loaded.stop_ids,
            pad_id=loaded.pad_id,
            means=means_for(opened, towards_means),
            settled=lambda index, new, readings=readings: readings(index, new).settled,
        )
        outcomes = continue_prefixes(loaded.model, prefixes, [None, *interventions], reading)
        start += len(batch)
        log(f"{start} of {len(ordered)} positions, {len(cells)} interventions each.")
        yield batch, [(cell, outcome, readings) for cell, outcome in zip([UNSCALED, *cells], outcomes, strict=True)]


def _next_batch(
    ordered: Sequence[ChosenPosition],
    sizes: Mapping[tuple[str, int], int],
    most_tokens: int,
    settings: Continuation,
) -> list[ChosenPosition]:
    """The first positions, at least one: as many as fit if each of their continuations goes its own way."""
    batch: list[ChosenPosition] = []
    for position in ordered:
        longest = sizes[position.key] + settings.max_new_tokens
        if batch and (len(batch) + 1) * (1 + settings.continuations) * longest > most_tokens:
            break
        batch.append(position)
    return batch


def _prefix(position: ChosenPosition, prompt_ids: tuple[int, ...], settings: Continuation) -> "Prefix":
    from backtracking_assets.models.continuation import Prefix

    return Prefix(
        problem_id=position.problem_id,
        sample_id=position.sample_id,
        token_index=position.token_index,
        token_ids=prompt_ids + position.before,
        onset_token_id=position.onset_token_id,
        drawn_token_id=position.drawn_token_id,
        continuations=settings.continuations if position.kind == "event" else 0,
    )


def _reader(loaded: "LoadedModel", batch: Sequence[ChosenPosition], experiment: Experiment) -> _Readings:
    """Reads continuations of the batch's positions; each distinct one is decoded once."""
    from backtracking_assets.models.detokenize import text_and_starts

    known: dict[tuple[int, tuple[int, ...]], Reading] = {}

    def read(index: int, new: tuple[int, ...]) -> Reading:
        if (index, new) not in known:
            context = batch[index].before[-_CONTEXT_TOKENS:]
            text, starts = text_and_starts(loaded.tokenizer, [*context, *new])
            known[index, new] = read_continuation(text, starts[len(context)], experiment.detection)
        return known[index, new]

    return read


def _position_rows(cell: Cell, batch: Sequence[ChosenPosition], outcome: "Outcome") -> list[dict[str, object]]:
    return [
        {
            "problem_id": position.problem_id,
            "sample_id": position.sample_id,
            "token_index": position.token_index,
            "kind": position.kind,
            "event_problem_id": position.event[0],
            "event_sample_id": position.event[1],
            "layer_subset": cell.layer_subset,
            "scale": cell.scale,
            "onset_token_id": position.onset_token_id,
            "onset_probability": found.onset_probability,
            "onset_rank": found.onset_rank,
            "trigger_probability": found.trigger_probability,
            "entropy": found.entropy,
            "same_draw": found.same_draw,
        }
        for position, found in zip(batch, outcome.next_tokens, strict=True)
    ]


def _sample_rows(
    cell: Cell, batch: Sequence[ChosenPosition], outcome: "Outcome", readings: _Readings
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for scaled_at, continuations in outcome.continuations.items():
        for index, (position, own) in enumerate(zip(batch, continuations, strict=True)):
            if own:
                found = [readings(index, new) for new in own]
                rows.append(
                    {
                        "problem_id": position.problem_id,
                        "sample_id": position.sample_id,
                        "layer_subset": cell.layer_subset,
                        "scale": cell.scale,
                        "scaled_at": scaled_at,
                        "n_continuations": len(own),
                        "n_again": sum(reading.again for reading in found),
                        "n_within": sum(reading.within for reading in found),
                    }
                )
    return rows
