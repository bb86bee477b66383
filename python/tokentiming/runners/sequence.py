"""Bookkeeping of what a runner has read, common to the runners that run a model's own code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from transformers import PreTrainedModel

from tokentiming.devices import send
from tokentiming.runners.base import common_prefix, context_length


class SequenceRunner(ABC):
    """A ``ModelRunner`` over a cache: a subclass reads tokens into the cache and shortens it.

    Args:
        model: borrowed, never changed.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device = model.device
        self.max_length = context_length(model)
        self.forwards = 0
        self._ids: list[int] = []
        self._stepped: list[torch.Tensor] = []

    @abstractmethod
    def __reduce__(self) -> tuple[Any, ...]:
        """Copy by construction from the model: a copy starts with an empty cache."""

    @property
    def synchronizes(self) -> bool:
        return bool(self.device.type == "cuda")

    def reset(self) -> None:
        self._ids, self._stepped = [], []
        self._clear()

    # Not inference_mode: a model keeps some tensors that it creates in a pass, such as rotary
    # tables, and its owner could not train it with inference tensors among them.
    @torch.no_grad()
    def logits(self, ids: list[int], keep: int = 1) -> torch.Tensor:
        known = self._roll_back(min(common_prefix(self._ids, ids), len(ids) - keep))
        fresh = ids[known:]
        self._ids = ids[:known]  # if the pass is interrupted, its tokens count as unread
        self._stepped = []
        logits = self._read(send(torch.tensor([fresh], device="cpu"), self.device), keep)
        self._ids = list(ids)
        self.forwards += 1
        return logits

    @torch.no_grad()
    def step(self, token: torch.Tensor) -> torch.Tensor:
        logits = self._read(token[None], 1)
        self._stepped.append(token)
        self.forwards += 1
        return logits

    def identify(self, ids: list[int]) -> None:
        identified = ids[: len(self._stepped)]
        self._ids = self._ids + identified
        self._stepped = self._stepped[len(identified) :]

    @abstractmethod
    def _clear(self) -> None:
        """Empty the cache."""

    @abstractmethod
    def _roll_back(self, length: int) -> int:
        """Shorten the cache to its first ``length`` tokens; returns how many it then holds."""

    @abstractmethod
    def _read(self, rows: torch.Tensor, keep: int) -> torch.Tensor:
        """Read tokens ``[1, n]`` into the cache; logits of the last ones, ``[keep, V]``."""
