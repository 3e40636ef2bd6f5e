"""A continuation ablation small enough to reason about: 12 events of 6 problems, 12 controls, two interventions."""

from typing import Any

import numpy as np
import pyarrow as pa

from backtracking_assets.records import CONTINUATION_POSITIONS, CONTINUATION_SAMPLES, UNSCALED, Cell

STRONG, WEAK = Cell("strong", 0.0), Cell("weak", 0.5)
DIGEST = "c" * 64


def positions_of(fingerprint: str = "baseline", **changes: Any) -> pa.Table:
    rng = np.random.default_rng(1)
    unscaled = rng.uniform(0.3, 0.7, 24)
    rows = []
    for cell, factor in ((UNSCALED, 1.0), (STRONG, 0.05), (WEAK, 0.97)):
        for number in range(24):
            is_event = number < 12
            problem, sample = f"p{number % 6:03d}", number // 6
            event_problem, event_sample = (problem, sample) if is_event else (problem, sample - 2)
            probability = float(unscaled[number] * (factor if is_event else 0.02))
            rows.append(
                {
                    "fingerprint": fingerprint,
                    "problem_id": problem,
                    "sample_id": sample,
                    "token_index": 5 + number,
                    "kind": "event" if is_event else "control",
                    "event_problem_id": event_problem,
                    "event_sample_id": event_sample,
                    "layer_subset": cell.layer_subset,
                    "scale": cell.scale,
                    "onset_token_id": 126,
                    "onset_probability": probability,
                    "onset_rank": 1 if probability > 0.25 else 2,
                    "trigger_probability": min(probability * 1.3, 1.0),
                    "entropy": 1.0 - probability,
                    "same_draw": cell == UNSCALED or number % 3 > 0,
                    "device": "cpu",
                    "continuation_digest": DIGEST,
                    "run_id": "run-1",
                    **changes,
                }
            )
    return pa.Table.from_pylist(rows, schema=CONTINUATION_POSITIONS)


def samples_of(fingerprint: str = "baseline", **changes: Any) -> pa.Table:
    counts = {
        (UNSCALED, "nowhere"): (8, 9),
        (STRONG, "one_position"): (0, 1),
        (STRONG, "from_there_on"): (0, 0),
        (WEAK, "one_position"): (8, 9),
        (WEAK, "from_there_on"): (7, 8),
    }
    rows = [
        {
            "fingerprint": fingerprint,
            "problem_id": f"p{number % 6:03d}",
            "sample_id": number // 6,
            "layer_subset": cell.layer_subset,
            "scale": cell.scale,
            "scaled_at": scaled_at,
            "n_continuations": 10,
            "n_again": again,
            "n_within": within,
            "continuation_digest": DIGEST,
            "run_id": "run-1",
            **changes,
        }
        for (cell, scaled_at), (again, within) in counts.items()
        for number in range(12)
    ]
    return pa.Table.from_pylist(rows, schema=CONTINUATION_SAMPLES)
