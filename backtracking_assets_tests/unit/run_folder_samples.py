"""Run folders of the reference study's layout, made here, with totals that are known.

Phase 1 has 10 examples x 4 samples of two variants at the baseline, and of the first with targeted ablation. At the
baseline of a variant: 20 of 40 strict, 25 relaxed, 10 correct, 2 unknown, 30 at the cap of 512 tokens.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FIRST, SECOND = "think_newline", "no_think"
HEADER = [
    "example_id",
    "sample_id",
    "variant",
    "condition",
    "has_backtracking_strict",
    "has_backtracking_relaxed",
    "onset_phrase",
    "onset_char",
    "onset_token_in_completion",
    "onset_token_in_full",
    "onset_token_id",
    "onset_token_text",
    "pred_pos_in_full",
    "predicted_answer",
    "is_correct",
    "prompt_tokens",
    "completion_tokens",
]


def event_row(example: int, sample: int, variant: str = FIRST, condition: str = "baseline") -> dict[str, Any]:
    """One completion as the study's file has it."""
    baseline = condition == "baseline"
    strict = (example + sample) % 2 == 0 if baseline else (example, sample) == (0, 0)
    relaxed = strict or (baseline and sample == 3)
    onset = 10 + example
    tokens = 512 if sample < 3 else 100 + example
    return {
        "example_id": example,
        "sample_id": sample,
        "variant": variant,
        "condition": condition,
        "has_backtracking_strict": strict,
        "has_backtracking_relaxed": relaxed,
        "onset_phrase": "Wait" if strict else "mistake" if relaxed else "",
        "onset_char": 3 * onset if relaxed else -1,
        "onset_token_in_completion": onset if relaxed else -1,
        "onset_token_in_full": onset + 60 if relaxed else -1,
        "onset_token_id": 14190 if relaxed else -1,
        "onset_token_text": "Wait" if strict else "",
        "pred_pos_in_full": onset + 59 if relaxed else -1,
        "predicted_answer": f'is {example}, "or so"',
        "is_correct": "" if sample == 3 and example < 2 else baseline and sample == 0,
        "prompt_tokens": 60,
        "completion_tokens": tokens,
    }


def event_rows() -> list[dict[str, Any]]:
    """All 120 completions of phase 1."""
    groups = ((FIRST, "baseline"), (SECOND, "baseline"), (FIRST, "targeted_ablation"))
    return [event_row(e, s, variant, condition) for variant, condition in groups for e in range(10) for s in range(4)]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_phase1(folder: Path, rows: Sequence[Mapping[str, Any]] | None = None, run_id: str = "phase_one") -> Path:
    """A phase 1 run. One published figure is wrong: the relaxed count of the baseline, 99 where there are 50."""
    analysis = folder / "analysis"
    write_csv(analysis / "backtracking_events.csv", event_rows() if rows is None else rows)
    write_csv(
        analysis / "condition_comparison.csv",
        [
            _figures(FIRST, 40, 20, 10 / 38, condition="baseline"),
            _figures(FIRST, 40, 1, 0.0, condition="targeted_ablation"),
        ],
    )
    write_csv(
        analysis / "formatting_summary.csv", [_figures(FIRST, 40, 20, 10 / 38), _figures(SECOND, 40, 20, 10 / 38)]
    )
    write_json(
        analysis / "summary_metrics.json",
        {
            "total_samples": 120,
            "backtracking_strict_count": 41,
            "unknown_count": 6,
            "by_condition": {"baseline": {"total": 80, "correct": 20, "accuracy": 0.25}},
        },
    )
    write_json(
        analysis / "metrics_v2.json",
        {
            "baseline_only_summary": {"total_samples": 80, "backtracking_relaxed_count": 99, "accuracy": 20 / 76},
            "backtracking_vs_accuracy": {
                "with_backtracking": {"count": 40, "correct": 10},
                "accuracy_difference": 0.0,
            },
            "variant_specific": {"variant": FIRST, "by_condition": {"baseline": {"total": 40, "correct": 10}}},
        },
    )
    write_csv(
        analysis / "ablation_importance.csv",
        [{"layer": 1, "component": "attn", "delta_wait_logit_mean": -1.5, "delta_wait_logit_std": "", "n_events": 9}],
    )
    write_csv(analysis / "logit_lens.csv", [{"layer": 0, "mean_target_logit_bt": 1.25, "n_bt": 9}])
    write_json(analysis / "selected_layers.json", {"attn": [1, 0], "mlp": [0]})
    write_json(folder / "meta.json", {"run_id": run_id, "model_id": "some/model", "git_sha": "abc1234"})
    return folder


def write_phase2(folder: Path) -> Path:
    """A phase 2 run: sweeps over `attn_1` and `both_0`, whose number of components is published as 3."""
    swept = [
        _swept("baseline", 0, 24, 0),
        _swept("attn_1", 1, 12, 1),
        _swept("both_0", 3, 6, 1),
        _swept("elsewhere", 1, 6, 1),
    ]
    write_csv(folder / "analysis" / "subset_sweep_results.csv", swept)
    write_csv(
        folder / "analysis" / "scale_sweep_results.csv",
        [{**_swept("attn_1", 1, count, 1), "scale": scale} for scale, count in ((0.0, 12), (0.5, 18))],
    )
    write_csv(
        folder / "analysis" / "continuation_ablation_results.csv",
        [{"example_id": n, "scale": 0.0, "onset_token": "Wait"} for n in range(9)],
    )
    write_json(folder / "meta.json", {"run_id": "phase_two", "model_id": "some/model"})
    return folder


def _figures(variant: str, total: int, count: int, accuracy: float, **more: str) -> dict[str, Any]:
    figures = {"total": total, "backtracking_count": count, "backtracking_rate": count / total, "accuracy": accuracy}
    return {"variant": variant, **more, **figures}


def _swept(name: str, n_components: int, count: int, correct: int, total: int = 48) -> dict[str, Any]:
    return {
        "total": total,
        "backtracking_count": count,
        "backtracking_rate": count / total,
        "correct_count": correct,
        "accuracy": correct / total,
        "subset_name": name,
        "num_components": n_components,
    }
