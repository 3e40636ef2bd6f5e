"""Precision and recall of the text rules on the golden set, by class and split.

Prints the figures of `dev`, on which the rules are tuned. With --write, `held_out` is scored too and both are written
to data/golden/scores.json, which reports show; that is done once for a version of the rules.
Run: python benchmarks/golden.py [--write]
"""

import json
import sys
from typing import Any

from backtracking_assets.analysis.detection import DETECTION_VERSION
from backtracking_assets.analysis.golden_set import SCORES, read_passages, score


def show(split: str, scores: dict[str, Any]) -> None:
    for what, agreement in scores.items():
        print(f"{split}, {agreement['n']} {what}: agree {agreement['agree']}")
        for name, figures in agreement["classes"].items():
            print(f"  {name:14} precision {figures['precision']}  recall {figures['recall']}")


def main() -> None:
    passages = read_passages()
    splits = ("dev", "held_out") if "--write" in sys.argv[1:] else ("dev",)
    result = {split: score([p for p in passages if p.split == split]) for split in splits}
    for split, scores in result.items():
        show(split, scores)
    if len(splits) == 2:
        document = {"detection_version": DETECTION_VERSION, "confidence": 0.95, "splits": result}
        SCORES.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
