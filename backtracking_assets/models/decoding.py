"""One batch of completions while it is decoded: prefill, then a token a step until every row has ended."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models.forward_passes import decode_step, prefill
from backtracking_assets.models.interventions import Scaling, decoder_layers
from backtracking_assets.models.sampling import row_keys, sample
from backtracking_assets.models.slot_cache import SlotCache, left_padded
from backtracking_assets.records import FinishReason

_COMPACT_BELOW = 0.95
"""Rows that ended are dropped from the batch once fewer than this share of its rows are still decoding."""

NOT_FINITE = -1
"""Stands for the token of a row whose logits are NaN or infinite."""

OnStep = Callable[[int, int], None]
"""Takes the decode steps of the chunk so far, and how many of its completions are still open."""


@dataclass(frozen=True)
class Request:
    """One completion to make. Requests with the same prompt share one prefill."""

    problem_id: str
    sample_id: int
    prompt_ids: tuple[int, ...]


class Decoding:
    """The state of a batch. `tokens` has a row for each request; the other tensors one for each slot of the batch, from
    which rows that ended are dropped."""

    def __init__(
        self,
        model: PreTrainedModel,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: Collection[int],
        pad_id: int,
    ) -> None:
        device = model.device
        self.model = model
        self.requests = requests
        self.sampling = sampling
        self.device = device
        self.stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=device)
        self.begun = False
        """Whether the prompts are read and the first token is drawn."""
        self.step = 0
        """Decode steps so far."""
        self.fired_until = [0]
        """What acted in the first n decode steps of a row together, counted by the hooks."""
        self.tokens = torch.empty((len(requests), sampling.max_new_tokens), dtype=torch.int64, device=device)
        """What was drawn, `NOT_FINITE` where nothing could be; meaningless behind the end of a row."""

        self.row_of_slot = torch.arange(len(requests), device=device)
        self.ended = torch.zeros(len(requests), dtype=torch.bool, device=device)
        self.last = torch.zeros(len(requests), dtype=torch.int64, device=device)
        """The token that each slot reads next."""
        keys = [(request.problem_id, request.sample_id) for request in requests]
        self.noise_keys = row_keys(sampling.seed, keys, device)
        prompts = list(dict.fromkeys(request.prompt_ids for request in requests))
        self.prompt_ids, self.prompt_padding = left_padded(prompts, pad_id, device)
        place = {prompt: index for index, prompt in enumerate(prompts)}
        self.prompt_of_row = torch.tensor([place[request.prompt_ids] for request in requests], device=device)
        self.padding = self.prompt_padding[self.prompt_of_row]
        capacity = self.prompt_ids.shape[1] + sampling.max_new_tokens
        self.cache = SlotCache(len(decoder_layers(model)), capacity)
        self.columns = torch.arange(capacity, device=device)

    def run(self, scaling: Scaling | None, on_step: OnStep, between: Callable[[], None] = lambda: None) -> int:
        """Prefill, unless the batch has begun, then decode until every row has ended; returns the decode steps.

        Args:
            between: called between two steps, when each slot has its token and some rows are still open.
        """
        if not self.begun:
            if scaling is not None:
                scaling.active = False  # an earlier part of the chunk left it on
            self.draw(self.prefill())
            self.begun = True
        while n_open := self.n_open():
            between()
            self.drop_ended(n_open)
            logits = self.decode(scaling)
            on_step(self.step, n_open)
            self.draw(logits)
        return self.step

    def prefill(self) -> torch.Tensor:
        """Logits after each row's prompt, `[rows, vocab]`."""
        logits = prefill(self.model, self.prompt_ids, self.prompt_padding, self.cache)
        self.cache.take(self.prompt_of_row)
        return logits[self.prompt_of_row]

    def decode(self, scaling: Scaling | None) -> torch.Tensor:
        """One decode step of every slot; returns logits, `[slots, vocab]`."""
        logits = decode_step(self.model, self.last, self.padding, self.cache, self.columns, scaling)
        self.step += 1
        self.fired_until.append(self.fired_until[-1] + (0 if scaling is None else scaling.n_fired))
        return logits

    def draw(self, logits: torch.Tensor) -> None:
        """Draw each slot's next token, and note which rows end with it."""
        finite = self.finite(logits)
        if not finite.all():
            logits = torch.where(finite[:, None], logits, 0.0)
        drawn = sample(
            logits,
            self.noise_keys[: len(logits)],
            self.step,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
        )
        self.note(drawn, finite)

    def note(self, drawn: torch.Tensor, finite: torch.Tensor) -> None:
        """Note what the slots drew, and which of them had logits to draw from."""
        self.last = drawn
        self.tokens[self.row_of_slot, self.step] = torch.where(finite, drawn, NOT_FINITE)
        self.ended = self.ended | ~finite | self.stops(drawn)

    def stops(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which tokens end a completion."""
        return (tokens[..., None] == self.stop_ids).any(dim=-1)

    @staticmethod
    def finite(logits: torch.Tensor) -> torch.Tensor:
        """Which rows of logits are finite throughout."""
        lowest, highest = torch.aminmax(logits, dim=-1)
        return (lowest > -torch.inf) & (highest < torch.inf)  # a comparison with NaN is false

    def n_open(self) -> int:
        """How many rows have not ended."""
        if self.step + 1 == self.sampling.max_new_tokens:
            return 0
        return len(self.ended) - int(self.ended.sum())

    def drop_ended(self, n_open: int) -> None:
        """Take ended rows out of the batch once enough of them have gathered."""
        if n_open >= _COMPACT_BELOW * len(self.ended):
            return
        # Few rows move: open ones from the end take the places of those that ended. Slots are told by their rows.
        ended, kept = self.ended, torch.arange(n_open, device=self.device)
        holes = ended[:n_open].nonzero()[:, 0]
        movers = (~ended[n_open:]).nonzero()[:, 0] + n_open
        kept[holes] = movers
        self.row_of_slot = self.row_of_slot[kept]
        self.ended = ended[kept]
        self.last = self.last[kept]
        self.noise_keys = self.noise_keys[kept]
        self.padding = self.padding[kept]
        self.cache.drop(holes, movers, n_open)

    def ended_rows(self) -> list[tuple[list[int], FinishReason]]:
        """Tokens of each request up to its end, a stop token included, and why it ended there."""
        drawn = self.tokens[:, : self.step + 1]
        ends = self.stops(drawn) | (drawn == NOT_FINITE)
        n_before = torch.where(ends.any(dim=-1), ends.int().argmax(dim=-1), drawn.shape[1]).tolist()
        rows: list[tuple[list[int], FinishReason]] = []
        for tokens, n in zip(drawn.tolist(), n_before, strict=True):
            if n == len(tokens):
                rows.append((tokens, "length"))
            elif tokens[n] == NOT_FINITE:
                rows.append((tokens[:n], "non_finite"))
            else:
                rows.append((tokens[: n + 1], "eos"))
        return rows
