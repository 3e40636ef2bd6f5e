"""The mean output of every component over the decode positions of given completions."""

from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedModel

from backtracking_assets.errors import BacktrackingError
from backtracking_assets.models.interventions import Target
from backtracking_assets.models.output_means import output_sums


def component_means(
    model: PreTrainedModel, completions: Iterable[tuple[Sequence[int], Sequence[int]]]
) -> dict[Target, torch.Tensor]:
    """The mean of each component's output, `[hidden]` in float64, over all decode positions of the completions.

    A decode position is one whose token is a completion's own and has a token after it: the prompt and the last token
    are none. Each counts once. A completion is one pass of its own, so that nothing depends on what it is read with.

    Args:
        completions: prompt and completion of each, as token ids.

    Raises:
        BacktrackingError: there is no decode position, or a mean is NaN or infinite.
    """
    sums = output_sums(model, completions)
    if sums.n_positions == 0:
        raise BacktrackingError("No completion has a decode position, so components have no mean output.")
    means = {target: total / sums.n_positions for target, total in sums.totals.items()}
    broken = [target for target, mean in means.items() if not bool(torch.isfinite(mean).all())]
    if broken:
        layer, kind = broken[0]
        raise BacktrackingError(
            f"The mean output of {len(broken)} components is NaN or infinite, the first is {kind} {layer}; "
            "set model.dtype to float32."
        )
    return means
