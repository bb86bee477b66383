"""One model and its key-value cache, asked for the logits of a whole sequence each time."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from tokentiming.devices import send
from tokentiming.runners.base import common_prefix, context_length
from tokentiming.runners.linear import fast_linear

_RECORDED_AT_MOST = 512
"""States of a sliding window kept for a roll-back before the outdated ones are dropped."""


class TorchRunner:
    """A borrowed causal language model that remembers the sequence it has read.

    There is no call to roll back: asking for the logits of another sequence keeps the common
    beginning and forgets the rest.

    Attributes:
        device: where the model is.
        max_length: most tokens that it can read, where its config says so.
        forwards: forward passes so far.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._weights = model.get_input_embeddings().weight
        self.forwards = 0
        self.device = model.device
        self.max_length = context_length(model)
        self.reset()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy begins with an empty cache."""
        return type(self), (self.model,)

    @property
    def synchronizes(self) -> bool:
        """Whether a look at what the model gives makes the host wait, as on a GPU."""
        return bool(self.device.type == "cuda")

    def reset(self) -> None:
        """Forget everything read so far."""
        self._ids: list[int] = []
        self._stepped: list[torch.Tensor] = []
        self._make_cache()

    # Not inference_mode: what a model creates in a pass, such as rotary tables, may stay in it, and
    # its owner could not train it with inference tensors inside.
    @torch.no_grad()
    def logits(self, ids: list[int], keep: int = 1) -> torch.Tensor:
        """Logits after each of the last ``keep`` tokens of ``ids``: ``[keep, V]``, model dtype."""
        known = self._take_back(min(common_prefix(self._ids, ids), len(ids) - keep))
        fresh = ids[known:]
        self._ids = ids[:known]  # should the pass be interrupted, its tokens count as unread
        self._stepped = []
        logits = self._read(send(torch.tensor([fresh], device="cpu"), self.device), keep)
        self._ids = list(ids)
        self.forwards += 1
        return logits

    @torch.no_grad()
    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Logits after one more token, int64 ``[1]``, whatever it is: ``[1, V]``.

        What such tokens are is to be said by ``identify`` before ``logits`` is asked again; those
        of which it is not are read anew.
        """
        logits = self._read(token[None], 1)
        self._stepped.append(token)
        self.forwards += 1
        return logits

    def identify(self, ids: list[int]) -> None:
        """Say what the tokens stepped over are, from the first on."""
        told = ids[: len(self._stepped)]
        self._ids = self._ids + told
        self._stepped = self._stepped[len(told) :]

    def _make_cache(self) -> None:
        self._cache: Any = DynamicCache(config=self.model.config)
        self._cache.activate_past_recording()
        self._recorded = 0

    def _read(self, rows: torch.Tensor, keep: int) -> torch.Tensor:
        with fast_linear(self._weights, rows.shape[1]):
            output = self.model(
                rows, past_key_values=self._cache, use_cache=True, logits_to_keep=keep
            )
        self._recorded += rows.shape[1]
        logits: torch.Tensor = output.logits[0, -keep:]
        return logits

    def _take_back(self, known: int) -> int:
        """Shorten the cache to its first ``known`` tokens; returns how many it then holds.

        A full sliding window keeps older states only since it was last cropped. Taken back further
        it has to be read anew.
        """
        surplus = len(self._ids) + len(self._stepped) - known
        if surplus > self._recorded and self._slides():
            self.reset()
            return 0
        if surplus or self._recorded > _RECORDED_AT_MOST:
            self._cache.crop(-surplus)
            self._recorded = 0
        return known

    def _slides(self) -> bool:
        return any(
            layer.is_sliding and layer.get_seq_length() >= layer.sliding_window
            for layer in self._cache.layers
        )
