"""Checks on every cell and prompt variant: what must hold, what deserves a warning, and the figures behind it."""

from collections.abc import Sequence

import dagster as dg
import pyarrow as pa

from backtracking_assets.assets.identity import Identity
from backtracking_assets.assets.stored_cells import failed
from backtracking_assets.conditions import Condition
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_sections import Checks
from backtracking_assets.partitions import grid_partitions, variant_partitions
from backtracking_assets.records import CHECKS, Subject, Variant, decode_steps
from backtracking_assets.reporting.contents import CheckOutcome
from backtracking_assets.reporting.formats import join_names
from backtracking_assets.storage.statements import key_of, links_of, named
from backtracking_assets.variant_records import VARIANT_CHECKS

SPECS: dict[str, dict[str, str]] = {
    "generations": {
        "exact_rows": "As many completions as the experiment plans, each key once.",
        "interventions_fired": "Every scaled component fired once in every decode step of every completion; or "
        "the logits were moved once.",
        "identity_at_scale_1": "With hooks at scale 1.0, completions equal those without hooks token by token.",
        "finite_logits": "No completion ended on NaN or infinite logits.",
        "not_truncated": "Few completions ended at the token cap.",
        "completions_vary": "The samples of a problem are not all the same text (at a temperature above 0).",
        "one_kind_of_device": "All completions were made on one kind of device; last bits differ between kinds.",
    },
    "detections": {
        "not_degenerate": "Few completions loop or break down.",
        "answers_found": "An answer was found in most completions.",
    },
    "metrics": {
        "accuracy_above_shuffled": "Accuracy is above accuracy against shuffled answers; otherwise answers may be "
        "joined to the wrong problems. Fails the baseline, informs elsewhere.",
    },
}
"""Names and meanings of the checks of each cell asset."""

VARIANT_SPECS: dict[str, dict[str, str]] = {
    "variant_generations": {
        name: meaning
        for name, meaning in SPECS["generations"].items()
        if name not in ("interventions_fired", "identity_at_scale_1")
    },
    "variant_detections": SPECS["detections"],
    "variant_metrics": {
        "accuracy_above_shuffled": "Accuracy is above accuracy against shuffled answers; otherwise answers may be "
        "joined to the wrong problems. Fails the sweep's own variant, informs of the others, whose form of prompt may "
        "be one that the model cannot use.",
    },
}
"""Names and meanings of the checks of each asset of a prompt variant, which has no intervention."""


def check_specs(experiment: Experiment, asset: str) -> list[dg.AssetCheckSpec]:
    """Specs of an asset's checks; partitioned, or Dagster would not record them by cell or variant."""
    partitions = variant_partitions(experiment) if asset in VARIANT_SPECS else grid_partitions(experiment)
    return [
        dg.AssetCheckSpec(name, asset=[experiment.name, asset], description=description, partitions_def=partitions)
        for name, description in {**SPECS, **VARIANT_SPECS}[asset].items()
    ]


def check_results(outcomes: Sequence[CheckOutcome]) -> list[dg.AssetCheckResult]:
    """The outcomes as Dagster records them."""
    severity = {"error": dg.AssetCheckSeverity.ERROR, "warning": dg.AssetCheckSeverity.WARN}
    return [
        dg.AssetCheckResult(
            check_name=outcome.name,
            passed=outcome.passed,
            severity=severity[outcome.severity],
            description=outcome.description,
        )
        for outcome in outcomes
    ]


def fail_on_errors(subject: Subject | str, outcomes: Sequence[CheckOutcome]) -> None:
    """Raise if a check that must hold does not: a failed blocking check alone would leave the cell green in Dagster.

    Raises:
        dg.Failure: with the descriptions of all failed checks.
    """
    if broken := failed(outcomes):
        reasons = "; ".join(f"{outcome.name}: {outcome.description}" for outcome in broken)
        name = subject if isinstance(subject, str) else named(subject)
        raise dg.Failure(description=f"{name} fails a check that must hold. {reasons}", allow_retries=False)


def checks_table(subject: Subject, asset: str, outcomes: Sequence[CheckOutcome], run_id: str) -> pa.Table:
    """The outcomes as rows of `records.CHECKS`, or of `variant_records.VARIANT_CHECKS`."""
    names = dict(zip(links_of(subject).key, key_of(subject), strict=True))
    rows = [
        {
            **names,
            "asset": asset,
            "name": outcome.name,
            "passed": outcome.passed,
            "severity": outcome.severity,
            "description": outcome.description,
            "run_id": run_id,
        }
        for outcome in outcomes
    ]
    return pa.Table.from_pylist(rows, schema=VARIANT_CHECKS if isinstance(subject, Variant) else CHECKS)


def generation_checks(
    experiment: Experiment, condition: Condition, completions: pa.Table, identity: CheckOutcome | None
) -> list[CheckOutcome]:
    """Checks of a cell's completions, given as rows of `records.COMPLETIONS`; without the probe where it was not made.

    The identity probe needs the model, and says what held on the machine that generated.
    """
    n, planned = completions.num_rows, experiment.completions_per_cell
    keys = set(zip(completions["problem_id"].to_pylist(), completions["sample_id"].to_pylist(), strict=True))
    n_acting = condition.intervention.n_acting if condition.intervention else 0
    moves_logits = condition.intervention is not None and condition.intervention.trigger_ids is not None
    acting = "Logits are moved once a step" if moves_logits else f"{n_acting} components"
    counts = zip(*(completions[name].to_pylist() for name in ("n_firings", "n_tokens", "finish_reason")), strict=True)
    wrong_firings = sum(firings != n_acting * decode_steps(tokens, reason) for firings, tokens, reason in counts)
    non_finite = _count(completions, "finish_reason", "non_finite")
    return [
        _must("exact_rows", len(keys) == n == planned, f"{n} completions with {len(keys)} keys, {planned} planned."),
        _must(
            "interventions_fired",
            wrong_firings == 0,
            f"{acting}; {wrong_firings} of {n} completions have another number of firings than "
            f"{'' if moves_logits else 'components x '}decode steps.",
        ),
        *(() if identity is None else (identity,)),
        CheckOutcome(
            "finite_logits",
            non_finite == 0,
            "error" if non_finite > n / 2 else "warning",
            f"{non_finite} of {n} completions ended on NaN or infinite logits.",
        ),
        _at_most(
            "not_truncated",
            _count(completions, "finish_reason", "length"),
            n,
            experiment.checks.truncated_share,
            f"ended at the cap of {experiment.sampling.max_new_tokens} tokens",
        ),
        _varies(experiment, completions),
        _one_kind_of_device(completions),
    ]


def identity_check(identity: Identity) -> CheckOutcome:
    """The check that hooks at scale 1.0 change nothing."""
    return _must(
        "identity_at_scale_1",
        identity.holds,
        f"{identity.n_equal} of {identity.n_completions} probed completions are equal with hooks at scale 1.0; "
        f"{'all' if identity.fired else 'not all'} hooks fired.",
    )


def detection_checks(checks: Checks, detections: pa.Table) -> list[CheckOutcome]:
    """Checks of a cell's detections, given as rows of `records.DETECTIONS`."""
    n = detections.num_rows
    degenerate = sum(detections["degenerate"].to_pylist())
    no_answer = _count(detections, "verdict", "no_answer")
    return [
        _at_most("not_degenerate", degenerate, n, checks.degenerate_share, "are degenerate"),
        _at_most("answers_found", no_answer, n, checks.no_answer_share, "have no answer"),
    ]


def metric_checks(checks: Checks, metrics: pa.Table, *, is_baseline: bool) -> list[CheckOutcome]:
    """Checks of the metrics of a cell or a variant, given as rows of `records.METRICS` or `VARIANT_METRICS`.

    At the baseline, a failure is an error unless the experiment file says otherwise.
    """
    rows = {row["metric"]: row for row in metrics.to_pylist()}
    accuracy, shuffled = rows["accuracy"], rows["accuracy_shuffled"]
    if accuracy["estimate"] is None or shuffled["estimate"] is None:
        said = "It cannot be judged: answers can be shuffled among two problems at least."
        return [CheckOutcome("accuracy_above_shuffled", False, "warning", said)]
    above = accuracy["low"] > shuffled["estimate"]
    blocking = is_baseline and checks.accuracy_above_shuffled == "block"
    return [
        CheckOutcome(
            "accuracy_above_shuffled",
            above,
            "error" if blocking else "warning",
            f"Accuracy {accuracy['estimate']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}] against "
            f"{shuffled['estimate']:.3f} with shuffled answers (n = {accuracy['n']}).",
        )
    ]


def _varies(experiment: Experiment, completions: pa.Table) -> CheckOutcome:
    texts: dict[str, set[tuple[int, ...]]] = {}
    for problem_id, token_ids in zip(
        completions["problem_id"].to_pylist(), completions["token_ids"].to_pylist(), strict=True
    ):
        texts.setdefault(problem_id, set()).add(tuple(token_ids))
    varied = sum(len(found) > 1 for found in texts.values())
    should_vary = experiment.sampling.temperature > 0 and experiment.problems.samples > 1
    said = f"{varied} of {len(texts)} problems have samples that differ."
    if not should_vary:
        said += " They need not: decoding is greedy or there is one sample a problem."
    return CheckOutcome("completions_vary", varied > 0 or not should_vary, "warning", said)


def _one_kind_of_device(completions: pa.Table) -> CheckOutcome:
    counts = {row["values"]: row["counts"] for row in completions["device"].value_counts().to_pylist()}
    made = join_names(f"{device} ({counts[device]})" for device in sorted(counts))
    said = f"Completions were made on {made}."
    if len(counts) > 1:
        said += " Last bits differ between kinds of device, so some may have taken another turn than on one alone."
    return CheckOutcome("one_kind_of_device", len(counts) <= 1, "warning", said)


def _must(name: str, passed: bool, description: str) -> CheckOutcome:
    return CheckOutcome(name, passed, "error", description)


def _at_most(name: str, count: int, n: int, share: float, what: str) -> CheckOutcome:
    return CheckOutcome(
        name, count <= share * n, "warning", f"{count} of {n} completions {what}; a warning stands above {share:.0%}."
    )


def _count(table: pa.Table, column: str, value: str) -> int:
    return table[column].to_pylist().count(value)
