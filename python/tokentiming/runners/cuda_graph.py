"""A model on a GPU, whose passes over one token are replayed as a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer

from tokentiming.runners.sequence import SequenceRunner
from tokentiming.runners.torch import TorchRunner

logger = logging.getLogger(__name__)

_CAPACITY = 1024
"""Tokens that the cache holds at first; it doubles when there are more."""

_MAX_STEPS = 8
"""Tokens read one by one: a pass of their own takes as long to launch as several steps."""

_ATTENTION = ("eager", "sdpa")
"""Implementations that follow the mask. Flash attention follows the number of keys instead, and a
static cache has as many keys as its capacity."""

Pass = Callable[[], torch.Tensor]
"""A forward pass over the same tensors each time, and its logits."""


class CudaGraphRunner(SequenceRunner):
    """Runs a model with a cache of fixed address, and replays its pass over one token.

    A small model's pass over one token is hundreds of small kernels, which take longer to launch
    than to run. Since the cache does not move, one recording serves every token. A few tokens are
    read one by one; longer stretches are read by an ordinary pass. The pass is recorded in the
    constructor, so that a model that cannot be recorded is known there. If a later recording fails,
    tokens are read by ordinary passes.

    Args:
        model: one that ``CudaGraphRunner.runs``; borrowed, never changed.
        record: turns a pass into its recording; by default into a CUDA graph.
        capacity: tokens that the cache holds at first.

    Raises:
        Exception: the pass cannot be recorded.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        record: Callable[[Pass], Pass] | None = None,
        *,
        capacity: int = _CAPACITY,
    ) -> None:
        super().__init__(model)
        self._record = record or partial(cuda_graph, device=self.device)
        self._recorded_pass: Pass | None = None
        self._allocate(capacity)
        self._recorded_pass = self._recording()

    def __reduce__(self) -> tuple[Any, ...]:
        return cuda_graph_or_torch, (self.model,)

    @staticmethod
    def runs(model: PreTrainedModel) -> bool:
        """Whether the model is on a GPU, can be recorded, and attends to all tokens by a mask."""
        if model.device.type != "cuda" or not model._can_compile_fullgraph:
            return False
        if model.config.get_text_config()._attn_implementation not in _ATTENTION:
            return False
        layers = StaticCache(config=model.config, max_cache_len=1).layers
        return all(type(layer) is StaticLayer for layer in layers)

    def logits(self, ids: list[int], keep: int = 1) -> torch.Tensor:
        if len(ids) > self._capacity:
            self._allocate(2 * len(ids))
        return super().logits(ids, keep)

    def step(self, token: torch.Tensor) -> torch.Tensor:
        if self._position == self._capacity:  # rare, so reading the stepped tokens here is cheap
            ids = self._ids + torch.cat(self._stepped).tolist()
            self._allocate(2 * self._capacity)
            self.logits(ids)
        return super().step(token)

    @property
    def _position(self) -> int:
        return len(self._ids) + len(self._stepped)

    # A recording writes these tensors in every mode, and inference tensors cannot be written
    # outside inference mode.
    @torch.inference_mode(False)
    def _allocate(self, tokens: int) -> None:
        self.reset()
        self._capacity = tokens
        self._token = torch.zeros((1, 1), dtype=torch.int64, device=self.device)
        self._known = torch.zeros((), dtype=torch.int64, device=self.device)
        self._cache = StaticCache(config=self.model.config, max_cache_len=tokens)
        self._recorded_pass = None

    def _clear(self) -> None:
        """Entries from the position on are never read, and are overwritten."""

    def _roll_back(self, length: int) -> int:
        return length  # as in _clear

    def _read(self, rows: torch.Tensor, keep: int) -> torch.Tensor:
        if keep > 1 or rows.shape[1] > _MAX_STEPS:
            self._known.fill_(self._position)
            return self._forward(rows, keep)
        for i, token in enumerate(rows[0]):
            self._known.fill_(self._position + i)
            self._token.copy_(token)
            logits = self._replay()
        return logits.clone()  # the next step overwrites them

    def _replay(self) -> torch.Tensor:
        if self._recorded_pass is None:
            try:
                self._recorded_pass = self._recording()
            except Exception as error:  # an ordinary pass overwrites what the failed one left
                _warn(self.model, error)
                self._recorded_pass = self._read_token
                self._record = lambda run: run
        return self._recorded_pass()

    def _recording(self) -> Pass:
        self._read_token()  # the cache is allocated at first use, which must not be recorded
        return self._record(self._read_token)

    def _read_token(self) -> torch.Tensor:
        return self._forward(self._token, 1)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _forward(self, rows: torch.Tensor, keep: int) -> torch.Tensor:
        for layer in self._cache.layers:  # inside the recording, since layers count by themselves
            layer.cumulative_length.copy_(self._known)
        output = self.model(rows, past_key_values=self._cache, use_cache=True, logits_to_keep=keep)
        logits: torch.Tensor = output.logits[0, -keep:]
        return logits


def cuda_graph_or_torch(
    model: PreTrainedModel, record: Callable[[Pass], Pass] | None = None
) -> SequenceRunner:
    """A ``CudaGraphRunner``, or a ``TorchRunner`` if the model cannot be recorded."""
    try:
        return CudaGraphRunner(model, record)
    except Exception as error:  # of any class: what a graph cannot hold depends on the model
        _warn(model, error)
        return TorchRunner(model)


def _warn(model: PreTrainedModel, error: Exception) -> None:
    logger.warning(
        "%s cannot be recorded as a CUDA graph and is run without, which is slower (%s: %s)",
        type(model).__name__, type(error).__name__, error,
    )  # fmt: skip


def cuda_graph(run: Pass, device: torch.device) -> Pass:
    """Record a pass; each call of the result replays it and returns the same tensor, rewritten."""
    with torch.cuda.device(device):
        outside = torch.cuda.current_stream()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        stream.wait_stream(outside)
        with torch.cuda.stream(stream):  # a failed capture does not leave its stream
            for _ in range(3):  # libraries initialize at first use, which must not be recorded
                run()
            # Other threads may use the device meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                logits = run()
        outside.wait_stream(stream)

    def replay() -> torch.Tensor:
        graph.replay()
        return logits

    return replay
