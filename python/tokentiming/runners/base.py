"""What every runner does, and facts about models that all of them need."""

from __future__ import annotations

from typing import Protocol

import torch
from transformers import PreTrainedModel


class ModelRunner(Protocol):
    """Runs one causal language model over one sequence, and remembers what it has read.

    There is no call to roll back: asking for the logits of another sequence keeps the common
    prefix and forgets the rest.
    """

    device: torch.device
    """Where the model and its logits are."""
    max_length: int | None
    """Most tokens that the model can read, if its config says so."""
    forwards: int
    """Forward passes so far."""

    @property
    def synchronizes(self) -> bool:
        """Whether reading a value of the logits waits for a device, as on a GPU."""

    def reset(self) -> None:
        """Forget everything read so far."""

    def logits(self, ids: list[int], keep: int = 1) -> torch.Tensor:
        """Logits after each of the last ``keep`` tokens of ``ids``: float ``[keep, V]``."""

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Logits after one more token, int64 ``[1]`` on the device: float ``[1, V]``.

        The host does not read the token. Call ``identify`` with the ids of stepped tokens before
        the next ``logits``; tokens not identified are recomputed.
        """

    def identify(self, ids: list[int]) -> None:
        """Give the ids of the stepped tokens, from the first on."""


def context_length(model: PreTrainedModel) -> int | None:
    """Most tokens that a model can read, if its config says so (XLNet's says -1)."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit if limit is not None and limit > 0 else None


def common_prefix(left: list[int], right: list[int]) -> int:
    """Length of the longest common prefix of two sequences."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return next(i for i in range(shorter) if left[i] != right[i])
