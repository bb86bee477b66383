"""A model of transformers, run by torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel

from tokentiming.runners.cache import RollbackCache
from tokentiming.runners.sequence import SequenceRunner

PassContext = Callable[[int], AbstractContextManager[Any]]
"""A context for a forward pass over a number of rows."""


class TorchRunner(SequenceRunner):
    """Runs any causal language model of transformers with a cache that can be rolled back.

    Args:
        model: borrowed, never changed.
        context: entered around each forward pass; ``runners.linear.native_linear(embedding)`` lets
            ``tokentiming._native`` compute the linear layers. By default they are torch's own.
    """

    def __init__(self, model: PreTrainedModel, *, context: PassContext | None = None) -> None:
        super().__init__(model)
        self._context = context
        self._cache = RollbackCache(model.config)

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (self.model, self._context)

    def _clear(self) -> None:
        self._cache.clear()

    def _roll_back(self, length: int) -> int:
        return self._cache.roll_back(length)

    def _read(self, rows: torch.Tensor, keep: int) -> torch.Tensor:
        tokens = rows.shape[1]
        with self._context(tokens) if self._context else nullcontext():
            output = self.model(
                rows, past_key_values=self._cache.states, use_cache=True, logits_to_keep=keep
            )
        self._cache.append(tokens)
        logits: torch.Tensor = output.logits[0, -keep:]
        return logits


def _copied(model: PreTrainedModel, context: PassContext | None) -> TorchRunner:
    return TorchRunner(model, context=context)
