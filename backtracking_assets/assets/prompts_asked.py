"""Whether stored completions answer the prompts that their problems have now."""

from backtracking_assets.assets.loaded import prompts
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.storage import queries


def changed_problem(opened: OpenExperiment, fingerprint: str) -> str | None:
    """A problem whose prompt is not the one that its completions answer; None where there is none."""
    prompt_of = prompts(opened)
    table = queries.completions(opened.layout, fingerprint).select(["problem_id", "prompt_sha256"])
    pairs = set(zip(table["problem_id"].to_pylist(), table["prompt_sha256"].to_pylist(), strict=True))
    changed = (name for name, prompt in pairs if name in prompt_of and prompt_of[name].sha256 != prompt)
    return min(changed, default=None)
