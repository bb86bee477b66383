"""Key-value caches that can be rolled back."""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache, PretrainedConfig

_MAX_RECORDED = 512
"""Tokens for which evicted states are recorded before they are dropped."""


class RollbackCache:
    """A ``DynamicCache`` that can be cropped, sliding windows included.

    Attributes:
        states: the cache to pass to the model.
        length: tokens in the cache.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        self._config = config
        self.clear()

    def clear(self) -> None:
        """Forget all tokens."""
        self.states: Any = DynamicCache(config=self._config)
        self.states.activate_past_recording()
        self.length = 0
        self._recorded = 0

    def append(self, tokens: int) -> None:
        """Count tokens that the model has just added."""
        self.length += tokens
        self._recorded += tokens

    def roll_back(self, length: int) -> int:
        """Shorten the cache to its first ``length`` tokens, or to none of them.

        A full sliding window keeps evicted states only since it was last cropped. If the cache has
        to be rolled back further it is cleared.

        Returns:
            Tokens that are left: ``length`` or 0.
        """
        surplus = self.length - length
        if surplus > self._recorded and self._has_full_window():
            self.clear()
            return 0
        if surplus or self._recorded > _MAX_RECORDED:
            self.states.crop(-surplus)
            self.length = length
            self._recorded = 0
        return length

    def _has_full_window(self) -> bool:
        return any(
            layer.is_sliding and layer.get_seq_length() >= layer.sliding_window
            for layer in self.states.layers
        )
