"""How often the intervals hold the truth, and how often a null intervention is called significant, in made-up studies.

120 problems x 4 samples, over rates and intra-cluster correlations, by the functions that measure cells. Each figure
stands with its Monte Carlo error. Run: python benchmarks/statistics_simulation.py [--studies N] [--plans N] [--json]
"""

import argparse
import json
from dataclasses import asdict

from backtracking_assets_tests.statistics.simulations import (
    CORRELATIONS,
    N_COMPARISONS,
    RATES,
    STUDIES,
    Proportion,
    coverage,
    false_alarms,
)

ALARM_RATES, ALARM_CORRELATION, KEPT = (0.05, 0.5, 0.95), 0.2, (0.0, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2_000, help="studies behind each coverage")
    parser.add_argument("--plans", type=int, default=500, help=f"plans of {N_COMPARISONS} null comparisons")
    parser.add_argument("--resamples", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    given = parser.parse_args()
    covered = {
        (name, correlation, mean): coverage(
            name, mean, correlation, studies=given.studies, resamples=given.resamples, seed=given.seed
        )
        for name in STUDIES
        for correlation in CORRELATIONS
        for mean in RATES
    }
    alarms = {
        (kept, mean): false_alarms(
            mean, ALARM_CORRELATION, kept, studies=given.plans, resamples=given.resamples, seed=given.seed
        )
        for kept in KEPT
        for mean in ALARM_RATES
    }
    if given.json:
        print(
            json.dumps(
                {
                    "settings": vars(given),
                    "coverage": [
                        {"of": name, "correlation": correlation, "rate": mean, **_figures(found)}
                        for (name, correlation, mean), found in covered.items()
                    ],
                    "false_alarms": [
                        {"kept_by_shared_noise": kept, "rate": mean, "comparisons": N_COMPARISONS, **_figures(found)}
                        for (kept, mean), found in alarms.items()
                    ],
                }
            )
        )
        return
    print(f"Coverage of 95% intervals in % ± Monte Carlo error, {given.studies} studies each")
    print(f"{'interval of a':<26}{'ICC':>4}  " + "".join(f"{f'rate {mean:g}':>11}" for mean in RATES))
    for name in STUDIES:
        for correlation in CORRELATIONS:
            print(f"{name:<26}{correlation:>4}  " + "".join(_text(covered[name, correlation, mean]) for mean in RATES))
    print(f"\nPlans of {N_COMPARISONS} null interventions with any Holm-corrected p < 0.05, {given.plans} plans each")
    print(f"{'kept by shared noise':<32}" + "".join(f"{f'rate {mean:g}':>11}" for mean in ALARM_RATES))
    for kept in KEPT:
        print(f"{kept:<32.0%}" + "".join(_text(alarms[kept, mean]) for mean in ALARM_RATES))


def _figures(found: Proportion) -> dict[str, float]:
    return {**asdict(found), "estimate": found.estimate, "standard_error": found.standard_error}


def _text(found: Proportion) -> str:
    return f"{100 * found.estimate:.1f}±{100 * found.standard_error:.1f}".rjust(11)


if __name__ == "__main__":
    main()
