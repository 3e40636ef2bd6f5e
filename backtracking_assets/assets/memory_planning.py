"""The memory that an experiment's chunks take on a device: planned before anything is generated."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from backtracking_assets.assets.loaded import prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.models.memory_plan import (
    GIB,
    Budget,
    MemoryPlan,
    ModelShape,
    budget_of,
    checkpoint_shape,
    plan_chunk,
    size,
)
from backtracking_assets.storage.rows import Key

_SIZES_GIB = (16, 24, 40, 80, 141)
"""Memory of GPUs that `doctor` shows a plan for."""

_UNBOUNDED = Budget("no device", 2**63, 2**63)


def plan_of_chunk(opened: OpenExperiment, device: str, keys: Collection[Key]) -> MemoryPlan:
    """The batches of a chunk of these completions. They follow from the chunk, the experiment file and the device.

    Raises:
        BacktrackingError: not even one completion fits, or is longer than the model knows positions.
    """
    prompt_of = prompts(opened)
    asked = {prompt_of[problem_id].token_ids for problem_id, _ in keys}
    return plan_chunk(
        _shape(opened),
        device_budget(opened, device),
        n_completions=len(keys),
        n_prompts=len(asked),
        longest_prompt=max(map(len, asked)),
        max_new_tokens=opened.experiment.sampling.max_new_tokens,
    )


def plan_of_experiment(asked: Iterable[OpenExperiment], budget: Budget) -> MemoryPlan:
    """The batches of a full chunk with the longest prompts of an experiment, or of it and its prompt variants.

    Raises:
        BacktrackingError: see `plan_of_chunk`.
    """
    plans = [_full_chunk(opened, budget) for opened in asked]
    return max(plans, key=lambda plan: plan.capacity)


def device_budget(opened: OpenExperiment, device: str) -> Budget:
    """What is planned with on a device.

    Raises:
        BacktrackingError: the experiment file states more than it has.
    """
    from backtracking_assets.models.memory import device_memory

    return budget_of(device, device_memory(device).total, opened.experiment.generation.memory_gib)


def too_little_free(plan: MemoryPlan) -> str | None:
    """A sentence where other programs hold memory that is planned with; None where all of it is to be had."""
    from backtracking_assets.models.memory import device_memory

    needed, usable = plan.n_bytes(plan.rows), device_memory(plan.budget.device).usable
    if needed <= usable:
        return None
    return (
        f"A batch of {plan.rows} takes up to {size(needed)} and {size(usable)} of {plan.budget.device} are free: end "
        "what else runs there. Batches are not cut for it, unless the memory runs out."
    )


def memory_facts(opened: OpenExperiment, variants: Iterable[OpenExperiment], device: str | None) -> dict[str, Any]:
    """What `doctor` says of an experiment's memory: on a device if there is one, and on GPUs of some sizes.

    Raises:
        BacktrackingError: see `plan_of_chunk`; the checkpoint or the problems are not there.
    """
    budget = _UNBOUNDED if device is None else device_budget(opened, device)
    plan = plan_of_experiment([*variants, opened], budget)
    facts: dict[str, Any] = {
        "weights_gib": round(plan.shape.weights_bytes / GIB, 3),
        "token_bytes": plan.shape.token_bytes,
        "longest_prompt": plan.longest_prompt,
        "max_new_tokens": plan.max_new_tokens,
        "row_gib": round(plan.capacity * plan.shape.token_bytes / GIB, 4),
        "completions_per_chunk": plan.n_completions,
        "chunk_gib": round(plan.n_bytes(plan.n_completions) / GIB, 3),
        "rows_on_a_gpu": {f"{gib} GiB": _rows_on_gpu(plan, gib) for gib in _SIZES_GIB},
        "device": device,
    }
    if device is None:
        return facts
    by = "generation.memory_gib" if budget.stated else "a share of the device"
    return {
        **facts,
        "device_gib": round(budget.total / GIB, 2),
        "planned_with_gib": round(budget.n_bytes / GIB, 2),
        "planned_with_by": by,
        "batches": plan.n_batches,
        "rows": plan.rows,
        "batch_gib": round(plan.n_bytes(plan.rows) / GIB, 3),
        "plan": str(plan),
    }


def _rows_on_gpu(plan: MemoryPlan, gib: int) -> int:
    """Completions of a chunk that are decoded at once on a GPU of this size; 0 where not even one fits."""
    fitting = plan.fitting(budget_of("cuda", gib * GIB, None).n_bytes)
    return replace(plan, rows_that_fit=fitting).rows if fitting else 0


def _full_chunk(opened: OpenExperiment, budget: Budget) -> MemoryPlan:
    per_chunk = opened.experiment.generation.completions_per_chunk
    n_completions = min(per_chunk, opened.experiment.completions_per_cell)
    return plan_chunk(
        _shape(opened),
        budget,
        n_completions=n_completions,
        n_prompts=-(-n_completions // min(opened.experiment.problems.samples, per_chunk)),
        longest_prompt=max(len(prompt.token_ids) for prompt in prompts(opened).values()),
        max_new_tokens=opened.experiment.sampling.max_new_tokens,
    )


def _shape(opened: OpenExperiment) -> ModelShape:
    return _shape_in(opened.checkpoint.folder, opened.checkpoint.weights_digest, opened.experiment.model.dtype)


@lru_cache(maxsize=4)
def _shape_in(folder: Path, weights_digest: str, dtype: str) -> ModelShape:
    """Once for each state of the weights, which the digest names."""
    return checkpoint_shape(folder, dtype)
