"""Measuring at the scan's positions: the logit lens, and every component's effect on the next token."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from backtracking_assets.analysis.continuation_positions import ChosenPosition
from backtracking_assets.assets.loaded import loaded_model, prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.scanning import HeldOut, scan_digest, scan_triggers
from backtracking_assets.errors import BacktrackingError
from backtracking_assets.execution.devices import device_name, lease_of
from backtracking_assets.scan_records import (
    COMPONENT_EFFECTS,
    DIVERGENCES,
    FIGURES,
    LENS_POSITIONS,
    MODES,
    SCAN_POSITIONS,
)
from backtracking_assets.storage import queries
from backtracking_assets.storage.rows import table_of

if TYPE_CHECKING:  # torch is imported only where a model is needed
    from torch import Tensor

    from backtracking_assets.models.component_scan import ScannedLogits
    from backtracking_assets.models.loading import LoadedModel

_TELL_EVERY = 20
"""Positions between two lines of the log."""


def measure_lens(
    opened: OpenExperiment,
    held: HeldOut,
    positions: tuple[ChosenPosition, ...],
    *,
    run_id: str,
    log: Callable[[str], None],
) -> tuple[pa.Table, bool]:
    """Rows of `LENS_POSITIONS`, and whether they were measured now: those of the store serve if made from the same.

    Raises:
        BacktrackingError: no device is to be had, the checkpoint is unfit, or logits are NaN or infinite.
    """
    stored = queries.scan_table(opened.layout, "lens_positions")
    computed_from = scan_digest(opened, held.stored)
    if stored["scan_digest"].unique().to_pylist() == [computed_from]:
        return stored, False
    from backtracking_assets.models.logit_lens import read_lens

    rows: list[dict[str, Any]] = []
    prompt_of = prompts(held.stored.opened)
    with _model(opened, log) as (loaded, device):
        for position in _told(positions, log):
            ids = _prefix(prompt_of[position.problem_id].token_ids, position)
            lens = read_lens(loaded.model, ids, position.onset_token_id)
            fixed = {
                **_position(held, position),
                "same_draw": _same_draw(opened, position, lens.logits),
                "largest_deviation": lens.largest_deviation,
                "tolerance": lens.tolerance,
                "device": device,
                "scan_digest": computed_from,
                "run_id": run_id,
            }
            rows += [
                {
                    **fixed,
                    "layer": reading.layer,
                    "onset_logit": reading.logit,
                    "onset_log_probability": reading.log_probability,
                    "onset_rank": reading.rank,
                }
                for reading in lens.readings
            ]
    return table_of(rows, LENS_POSITIONS), True


def measure_scan(
    opened: OpenExperiment,
    held: HeldOut,
    positions: tuple[ChosenPosition, ...],
    *,
    run_id: str,
    log: Callable[[str], None],
) -> tuple[pa.Table, pa.Table, bool]:
    """Rows of `SCAN_POSITIONS` and `COMPONENT_EFFECTS`, and whether they were measured now.

    Raises:
        BacktrackingError: no device is to be had, the checkpoint is unfit, a mean or a value is NaN or infinite, or a
            row was not changed by its component alone.
    """
    stored = queries.scan_table(opened.layout, "scan_positions"), queries.scan_table(opened.layout, "component_effects")
    computed_from = scan_digest(opened, held.stored)
    if all(table["scan_digest"].unique().to_pylist() == [computed_from] for table in stored):
        return *stored, False
    from backtracking_assets.models.component_means import component_means
    from backtracking_assets.models.component_scan import all_variants, scan_prefix
    from backtracking_assets.models.interventions import decoder_layers

    made = {"scan_digest": computed_from, "run_id": run_id}
    triggers = list(scan_triggers(opened, held))
    prompt_of = prompts(held.stored.opened)
    columns = zip(held.completions["problem_id"].to_pylist(), held.completions["token_ids"].to_pylist(), strict=True)
    position_rows: list[dict[str, Any]] = []
    effect_rows: list[dict[str, Any]] = []
    with _model(opened, log) as (loaded, device):
        log(f"Mean outputs over {held.completions.num_rows} completions of {held.n_problems} held-out problems.")
        means = component_means(loaded.model, ((prompt_of[name].token_ids, ids) for name, ids in columns))
        variants = all_variants(len(decoder_layers(loaded.model)), MODES)
        for position in _told(positions, log):
            ids = _prefix(prompt_of[position.problem_id].token_ids, position)
            for number, part in enumerate(scan_prefix(loaded.model, ids, variants, means)):
                own, effects = _rows(held, position, part, triggers)
                if number == 0:
                    same_draw = _same_draw(opened, position, part.alone)
                    position_rows.append({**own, "same_draw": same_draw, "device": device, **made})
                effect_rows += [{**row, **made} for row in effects]
    return table_of(position_rows, SCAN_POSITIONS), table_of(effect_rows, COMPONENT_EFFECTS), True


@contextmanager
def _model(opened: OpenExperiment, log: Callable[[str], None]) -> Iterator[tuple["LoadedModel", str]]:
    """The model on a leased device, and what that is called in rows."""
    with lease_of(opened.experiment, log) as device:
        yield loaded_model(opened, device), device_name(device)


def _told(positions: tuple[ChosenPosition, ...], log: Callable[[str], None]) -> Iterator[ChosenPosition]:
    for done, position in enumerate(positions, start=1):
        yield position
        if done % _TELL_EVERY == 0 or done == len(positions):
            log(f"{done} of {len(positions)} positions.")


def _rows(
    held: HeldOut, position: ChosenPosition, part: "ScannedLogits", triggers: list[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The position's row, and one for each variant of the part with its figures minus the unscaled ones."""
    from backtracking_assets.models.component_scan import figures, ordinary_token

    _refuse_non_finite(position, part)
    ordinary = ordinary_token(part.alone, triggers) if position.kind == "event" else position.drawn_token_id
    about = position.onset_token_id, ordinary, triggers
    (unscaled,) = figures(part.unscaled[None], part.unscaled, *about)
    own = {
        **_position(held, position),
        "ordinary_token_id": ordinary,
        **{name: getattr(unscaled, name) for name in FIGURES},
        "largest_deviation": part.largest_deviation,
        "tolerance": part.tolerance,
    }
    effects = [
        {
            "fingerprint": held.stored.fingerprint,
            "problem_id": position.problem_id,
            "sample_id": position.sample_id,
            "layer": variant.layer,
            "component": variant.component,
            "mode": variant.mode,
            **{name: getattr(found, name) - getattr(unscaled, name) for name in FIGURES},
            **{name: getattr(found, name) for name in DIVERGENCES},
            "n_firings": fired,
        }
        for variant, found, fired in zip(
            part.variants, figures(part.scaled, part.unscaled, *about), part.firings, strict=True
        )
    ]
    return own, effects


def _prefix(prompt_ids: tuple[int, ...], position: ChosenPosition) -> tuple[int, ...]:
    return (*prompt_ids, *position.before)


def _refuse_non_finite(position: ChosenPosition, part: "ScannedLogits") -> None:
    name = f"token {position.token_index} of problem {position.problem_id!r}, sample {position.sample_id}"
    if not part.unscaled.isfinite().all():
        raise BacktrackingError(
            f"The logits behind {name} are NaN or infinite without intervention; nothing was stored. Set model.dtype "
            "to float32."
        )
    broken = [v for v, row in zip(part.variants, part.scaled.isfinite().all(dim=-1).tolist(), strict=True) if not row]
    if broken:
        raise BacktrackingError(
            f"The logits behind {name} are NaN or infinite with {len(broken)} components moved, the first is "
            f"{broken[0].component} {broken[0].layer} to {broken[0].mode}; nothing was stored. Set model.dtype to "
            "float32."
        )


def _same_draw(opened: OpenExperiment, position: ChosenPosition, logits: "Tensor") -> bool:
    """Whether the baseline's own noise draws the baseline's token here: the position is where it is taken to be."""
    from backtracking_assets.models.sampling import draws_again

    sampling = opened.experiment.sampling
    return draws_again(
        logits,
        position.drawn_token_id,
        problem_id=position.problem_id,
        sample_id=position.sample_id,
        step=position.token_index,
        seed=sampling.seed,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
    )


def _position(held: HeldOut, position: ChosenPosition) -> dict[str, Any]:
    return {
        "fingerprint": held.stored.fingerprint,
        "problem_id": position.problem_id,
        "sample_id": position.sample_id,
        "token_index": position.token_index,
        "kind": position.kind,
        "event_problem_id": position.event[0],
        "event_sample_id": position.event[1],
        "onset_token_id": position.onset_token_id,
    }
