"""Computing the means that outputs are scaled towards, from the baseline's completions of held-out problems."""

from collections.abc import Callable

from backtracking_assets.assets.compositions import means_digest_of, means_made_from
from backtracking_assets.assets.generating import ensure_condition
from backtracking_assets.assets.loaded import loaded_model, prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.execution.devices import device_name, lease_of
from backtracking_assets.records import UNSCALED
from backtracking_assets.storage.archive import read_archive
from backtracking_assets.storage.means import MeansNote, means_digest, means_note, write_means
from backtracking_assets.storage.rows import keys_of


def component_means_is_done(opened: OpenExperiment) -> bool:
    """Whether there is nothing to do: the means are there as the experiment asks for them, or no subset needs them."""
    return not opened.experiment.needs_means or means_digest_of(opened) is not None


def stored_means(opened: OpenExperiment) -> MeansNote | None:
    """The note on the means as the experiment asks for them now; None where they are missing or damaged."""
    return None if means_digest_of(opened) is None else means_note(opened.layout, means_made_from(opened))


def ensure_means(opened: OpenExperiment, *, run_id: str, log: Callable[[str], None]) -> tuple[MeansNote, bool]:
    """Have the means in the store; the note on them, and whether they were computed now.

    The completions are the baseline's, under its fingerprint: phase 1 and the means share those that both ask for.

    Raises:
        BacktrackingError: a source is unfit, no device is to be had, the store cannot be written, or the means would be
            empty, NaN or zero.
    """
    if (note := stored_means(opened)) is not None:
        return note, False
    held_out = opened.held_out

    with lease_of(opened.experiment, log) as device:
        ensure_condition(held_out, held_out.baseline, UNSCALED, run_id=run_id, log=log)
        note = _compute(opened, held_out, device, run_id)
    return note, True


def _compute(opened: OpenExperiment, held_out: OpenExperiment, device: str, run_id: str) -> MeansNote:
    from backtracking_assets.models.output_means import output_means

    archive = read_archive(opened.layout, opened.baseline.fingerprint)
    columns = zip(archive["token_ids"].to_pylist(), archive["finish_reason"].to_pylist(), strict=True)
    rows = dict(zip(keys_of(archive), columns, strict=True))
    # A completion that ended on non-finite logits would make every mean NaN.
    asked = held_out.keys()
    usable = [key for key in asked if rows[key][1] != "non_finite"]
    prompt_of = prompts(held_out)
    found = output_means(
        loaded_model(opened, device).model, ((prompt_of[key[0]].token_ids, rows[key][0]) for key in usable)
    )
    note = MeansNote(
        means=means_digest(found.vectors),
        n_completions=len(usable),
        n_positions=found.n_positions,
        device=device_name(device),
        run_id=run_id,
        shares={f"{kind}.{layer}": round(share, 6) for (layer, kind), share in sorted(found.shares.items())},
    )
    write_means(opened.layout, means_made_from(opened), found.vectors, note)
    return note
