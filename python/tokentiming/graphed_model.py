"""A draft model on a GPU, whose passes over one token are replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer

from tokentiming.cache import common_prefix

_FIRST_CAPACITY = 1024
"""Tokens that the cache has room for at first; it doubles when they are more."""

Pass = Callable[[], torch.Tensor]
"""A forward pass over the same tensors each time, and its logits."""


class GraphedModel:
    """A borrowed causal language model with the interface of ``CachedModel``.

    A small model's pass over one token is hundreds of small kernels, and launching them one by one
    takes longer than they do. The cache stays where it is, so that one recording serves every
    token; passes over several tokens run as they are.

    Args:
        model: one that ``GraphedModel.runs``; it is left as it is.
        record: turns a pass into its recording.
    """

    def __init__(
        self, model: PreTrainedModel, record: Callable[[Pass], Pass] | None = None
    ) -> None:
        self.model = model
        self.device = model.device
        self.max_length: int | None = getattr(
            model.config.get_text_config(), "max_position_embeddings", None
        )
        self.forwards = 0
        self._record = record or cuda_graph
        self._token = torch.zeros((1, 1), dtype=torch.int64, device=self.device)
        self._known = torch.zeros((), dtype=torch.int64, device=self.device)
        self._make_room(_FIRST_CAPACITY)

    @staticmethod
    def runs(model: PreTrainedModel) -> bool:
        """Whether the model is on a GPU, can be recorded, and attends to all tokens alike."""
        if model.device.type != "cuda" or not model._can_compile_fullgraph:
            return False
        layers = StaticCache(config=model.config, max_cache_len=1).layers
        return all(type(layer) is StaticLayer for layer in layers)

    def reset(self) -> None:
        """Forget everything read so far."""
        self._ids: list[int] = []

    @torch.inference_mode()
    def logits(self, ids: list[int], keep: int = 1) -> torch.Tensor:
        """Logits after each of the last ``keep`` tokens of ``ids``: ``[keep, V]``, model dtype."""
        if len(ids) > self._capacity:
            self._make_room(2 * len(ids))
        known = min(common_prefix(self._ids, ids), len(ids) - keep)
        fresh = ids[known:]
        self._ids = ids[:known]  # should the pass be interrupted, its tokens count as unread
        self._known.fill_(known)
        if len(fresh) == 1:
            self._token.fill_(fresh[0])
            logits = self._step()
        else:
            logits = self._forward(torch.tensor([fresh], device=self.device), keep)
        self._ids = list(ids)
        self.forwards += 1
        return logits

    def _make_room(self, tokens: int) -> None:
        self.reset()
        self._capacity = tokens
        self._cache = StaticCache(config=self.model.config, max_cache_len=tokens)
        self._recorded: Pass | None = None

    def _step(self) -> torch.Tensor:
        if self._recorded is None:
            self._recorded = self._record(lambda: self._forward(self._token, 1))
        return self._recorded().clone()  # the next step writes where this one did

    def _forward(self, rows: torch.Tensor, keep: int) -> torch.Tensor:
        for layer in self._cache.layers:  # inside the recording, or it would go on by itself
            layer.cumulative_length.copy_(self._known)
        output = self.model(rows, past_key_values=self._cache, use_cache=True, logits_to_keep=keep)
        logits: torch.Tensor = output.logits[0, -keep:]
        return logits


def cuda_graph(run: Pass) -> Pass:
    """The pass recorded; each call replays it and returns the same tensor, written anew."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # what libraries set up at first use must not be recorded
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = run()

    def replay() -> torch.Tensor:
        graph.replay()
        return logits

    return replay
