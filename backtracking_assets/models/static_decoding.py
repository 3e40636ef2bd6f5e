"""Decoding on buffers that never move, so that a CUDA device replays a captured step instead of being told its kernels.

A step is the forward pass, the draw, and the notes on which rows ended. It is captured once for each bucket of rows and
of used columns. The host looks only every few steps: rows that ended decode on until then, and what they draw is cut
off. Where the most probable tokens did not suffice for a draw, decoding goes back to that step and ranks all tokens.
Without capture the same code runs on any device.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models.decoding import NOT_FINITE, Decoding, OnStep, Request
from backtracking_assets.models.forward_passes import decode_pass, prefill
from backtracking_assets.models.interventions import Scaling
from backtracking_assets.models.memory import is_out_of_memory
from backtracking_assets.models.memory_plan import CAPTURED_COLUMNS, CAPTURED_ROWS
from backtracking_assets.models.sampling import sample_without_waiting
from backtracking_assets.models.slot_cache import SlotCache

_MOST_UNSEEN = 16
"""Steps between two looks of the host."""

_NEVER = 2**31

_log = logging.getLogger(__name__)


class FixedCache(SlotCache):
    """A `SlotCache` whose buffers stay where they are, written at a position that stands on the device."""

    def __init__(self, cache: SlotCache, rows: torch.Tensor) -> None:
        """A cache of the given rows of another one, which may be taken more than once. What is not written is 0."""
        super().__init__(cache.n_layers, cache.capacity)
        self.length = cache.length
        self.position = torch.tensor([cache.length], device=rows.device)
        self.n_rows, self.n_columns = len(rows), cache.capacity
        for own, theirs in ((self._keys, cache._keys), (self._values, cache._values)):
            for layer, buffer in enumerate(theirs):
                assert buffer is not None
                taken = buffer.new_zeros((len(rows), buffer.shape[1], cache.capacity, buffer.shape[3]))
                taken[:, :, : self.length] = buffer[:, :, : self.length].index_select(0, rows)
                own[layer] = taken
                theirs[layer] = None  # both caches need not fit

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new position of one layer; returns keys and values of the columns in use."""
        used = []
        for buffers, states in ((self._keys, key_states), (self._values, value_states)):
            buffer = buffers[layer_idx]
            assert buffer is not None
            buffer[: self.n_rows].index_copy_(2, self.position, states)
            used.append(buffer[: self.n_rows, :, : self.n_columns])
        return used[0], used[1]

    def rewind(self, length: int) -> None:
        # What is hidden must still be finite: not a number stays one behind every mask.
        for buffer in (*self._keys, *self._values):
            assert buffer is not None
            buffer[:, :, length:] = 0
        self.length = length
        self.position.fill_(length)

    def drop(self, holes: torch.Tensor, movers: torch.Tensor, n_rows: int) -> None:
        for buffer in (*self._keys, *self._values):
            assert buffer is not None
            buffer[holes] = buffer[movers]


class StaticDecoding(Decoding):
    """A batch whose tensors keep their places; its first `n_slots` slots are in use."""

    def __init__(
        self,
        model: PreTrainedModel,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: Collection[int],
        pad_id: int,
        capture: bool,
    ) -> None:
        """Args beyond those of `Decoding`:

        capture: replay captured steps, which a CUDA device alone can do.
        """
        super().__init__(model, requests, sampling, stop_ids=stop_ids, pad_id=pad_id)
        self.capture = capture
        self.n_slots = len(requests)
        self.drawn_step = torch.zeros(1, dtype=torch.int64, device=self.device)
        """Number of the token that is drawn next."""
        self.unsure_step = torch.full((1,), _NEVER, dtype=torch.int64, device=self.device)
        """Number of the first token for which the candidates did not suffice."""
        self._warm: set[tuple[int, int]] = set()
        self._captured: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor, int]] = {}
        self._pool: Any = None

    def prefill(self) -> torch.Tensor:
        logits = prefill(self.model, self.prompt_ids, self.prompt_padding, self.cache)
        self.cache = FixedCache(self.cache, self.prompt_of_row)
        return logits[self.prompt_of_row]

    def run(self, scaling: Scaling | None, on_step: OnStep, between: Callable[[], None] = lambda: None) -> int:
        if not self.begun:
            if scaling is not None:
                scaling.active = False  # an earlier part of the chunk left it on
            self.draw(self.prefill())
            self.begun = True
        self.drawn_step.fill_(self.step + 1)
        unseen = 1
        while n_open := self.n_open():
            between()
            self.drop_ended(n_open)
            logits = [self._next(scaling) for _ in range(min(unseen, self.sampling.max_new_tokens - 1 - self.step))][-1]
            unsure = int(self.unsure_step)
            if unsure != _NEVER:
                self.unsure_step.fill_(_NEVER)
                unseen = 1
                if unsure < self.step:
                    self._go_back(unsure)
                    continue
                self.draw(logits)
            else:
                unseen = min(2 * unseen, _MOST_UNSEEN)
            on_step(self.step, n_open)
        return self.step

    def drop_ended(self, n_open: int) -> None:
        n_slots = min(self.n_slots, -(-n_open // CAPTURED_ROWS) * CAPTURED_ROWS)
        if n_slots == self.n_slots:
            return
        holes = self.ended[:n_open].nonzero()[:, 0]
        movers = (~self.ended[n_open:]).nonzero()[:, 0] + n_open
        order = torch.arange(len(self.ended), device=self.device)
        order[holes], order[movers] = movers, holes
        for own in (self.row_of_slot, self.ended, self.last, self.noise_keys, self.padding):
            own.copy_(own[order])
        self.cache.drop(holes, movers, n_slots)
        self.n_slots = n_slots

    def note(self, drawn: torch.Tensor, finite: torch.Tensor) -> None:
        n = len(drawn)
        self.last[:n] = drawn
        self.tokens[self.row_of_slot[:n], self.step] = torch.where(finite, drawn, NOT_FINITE)
        self.ended[:n] |= ~finite | self.stops(drawn)

    def _next(self, scaling: Scaling | None) -> torch.Tensor:
        """One decode step and the draw behind it; returns the step's logits, which the next one may overwrite."""
        cache = self.cache
        assert isinstance(cache, FixedCache)
        cache.n_rows = self.n_slots
        cache.n_columns = min(cache.capacity, -(-(cache.length + 1) // CAPTURED_COLUMNS) * CAPTURED_COLUMNS)
        bucket = (cache.n_rows, cache.n_columns)
        if not self.capture:
            logits = self._step(scaling)
            n_fired = 0 if scaling is None else scaling.n_fired
        elif bucket in self._captured:
            graph, logits, n_fired = self._captured[bucket]
            graph.replay()
        elif bucket in self._warm and self._try_capture(bucket, scaling):
            return self._next(scaling)
        else:
            logits = self._step_aside(scaling)
            n_fired = 0 if scaling is None else scaling.n_fired
            self._warm.add(bucket)
        self.step += 1
        cache.length += 1
        self.fired_until.append(self.fired_until[-1] + n_fired)
        return logits

    def _step(self, scaling: Scaling | None) -> torch.Tensor:
        """What is captured: reads and writes tensors that stay in place, and waits for nothing."""
        n, cache = self.n_slots, self.cache
        assert isinstance(cache, FixedCache)
        padding, ended, step = self.padding[:n], self.ended[:n], self.drawn_step
        columns = self.columns[: cache.n_columns]
        shown = (columns >= padding[:, None]) & (columns <= cache.position)
        logits = decode_pass(self.model, self.last[:n], shown, cache.position - padding, cache, scaling)
        finite = self.finite(logits)
        drawn, certain = sample_without_waiting(
            torch.where(finite[:, None], logits, 0.0),
            self.noise_keys[:n],
            step,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
        )
        unsure = (~certain & finite & ~ended).any()
        self.unsure_step.copy_(torch.minimum(self.unsure_step, torch.where(unsure, step, _NEVER)))
        self.tokens.index_put_((self.row_of_slot[:n], step.expand(n)), torch.where(finite, drawn, NOT_FINITE))
        # A token that is still to be drawn again ends nothing.
        ended |= ~finite | (certain & self.stops(drawn))
        self.last[:n] = drawn
        step += 1
        cache.position += 1
        return logits

    def _go_back(self, step: int) -> None:
        """To before the decode step whose token is the given one."""
        self.cache.rewind(self.cache.length - (self.step - step + 1))
        self.step = step - 1
        del self.fired_until[step:]
        self.drawn_step.fill_(step)
        drawn = self.tokens[self.row_of_slot[: self.n_slots], :step]
        self.last[: self.n_slots] = drawn[:, -1].clamp(min=0)
        self.ended[: self.n_slots] = (self.stops(drawn) | (drawn == NOT_FINITE)).any(dim=-1)

    def _step_aside(self, scaling: Scaling | None) -> torch.Tensor:
        """A step on a stream of its own, as capture wants it to have run before."""
        stream, here = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            logits = self._step(scaling)
        here.wait_stream(stream)
        logits.record_stream(here)
        return logits

    def _try_capture(self, bucket: tuple[int, int], scaling: Scaling | None) -> bool:
        """Capture the step, which does not run it; False, once and for all, where that fails."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                logits = self._step(scaling)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            first = str(error).strip().partition("\n")[0]
            _log.warning("Steps cannot be captured on %s and run uncaptured, more slowly: %s", self.device, first)
            self.capture = False
            return False
        self._pool = graph.pool()
        # Hooks run while the step is captured; what they did is repeated by each replay.
        self._captured[bucket] = (graph, logits, 0 if scaling is None else scaling.n_fired)
        return True


def decoding_for(
    model: PreTrainedModel, requests: Sequence[Request], sampling: Sampling, *, stop_ids: Collection[int], pad_id: int
) -> Decoding:
    """The decoding of a batch that suits the model's device."""
    if model.device.type == "cuda":
        return StaticDecoding(model, requests, sampling, stop_ids=stop_ids, pad_id=pad_id, capture=True)
    return Decoding(model, requests, sampling, stop_ids=stop_ids, pad_id=pad_id)
