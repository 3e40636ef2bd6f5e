"""Naming what made most of a cell's completions end on NaN or infinite logits."""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from backtracking_assets.assets.loaded import loaded_model, means_for, prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.conditions import Condition
from backtracking_assets.execution.devices import lease_of
from backtracking_assets.reporting.contents import CheckOutcome


def with_origin(
    opened: OpenExperiment, condition: Condition, completions: pa.Table, outcomes: Sequence[CheckOutcome]
) -> list[CheckOutcome]:
    """The outcomes of a cell's checks; `finite_logits`, where it fails the cell, says where the values come from.

    Raises:
        BacktrackingError: no device is to be had, or the checkpoint is unfit.
    """
    return [
        replace(outcome, description=f"{outcome.description} {_origin(opened, condition, completions)}")
        if outcome.name == "finite_logits" and not outcome.passed and outcome.severity == "error"
        else outcome
        for outcome in outcomes
    ]


def _origin(opened: OpenExperiment, condition: Condition, completions: pa.Table) -> str:
    from backtracking_assets.models.generation import Request
    from backtracking_assets.models.non_finite import origin_of_non_finite

    row = completions.filter(pc.field("finish_reason") == "non_finite").slice(0, 1).to_pylist()[0]
    request = Request(row["problem_id"], row["sample_id"], prompts(opened)[row["problem_id"]].token_ids)
    with lease_of(opened.experiment) as device:
        loaded = loaded_model(opened, device)
        return origin_of_non_finite(
            loaded.model,
            request,
            row["token_ids"],
            opened.experiment.sampling,
            condition.intervention,
            pad_id=loaded.pad_id,
            means=means_for(opened, condition.intervention),
        )
