"""A completion that was generated."""

from dataclasses import dataclass

from backtracking_assets.models.decoding import Request
from backtracking_assets.records import FinishReason, decode_steps


@dataclass
class Generated:
    """One completion as token ids."""

    request: Request
    token_ids: list[int]
    finish_reason: FinishReason
    n_firings: int
    """What acted, scaled components or the move of the logits, summed over the completion's decode steps."""
    batch_rows: int
    """Completions that were batched together, this one among them."""

    @property
    def n_decode_steps(self) -> int:
        """Decode steps that this completion took part in."""
        return decode_steps(len(self.token_ids), self.finish_reason)
