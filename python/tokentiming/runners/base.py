"""What every runner does, and facts about models that all of them need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import PreTrainedModel

from tokentiming.tokens.tree import Tree


class ModelRunner(Protocol):
    """Runs one causal language model over several texts, each followed by a tree of tokens.

    A runner remembers what it has read of each text. There is no call to roll back or to keep a
    path: the next ``read`` keeps the longest beginning of each text that has been read, along the
    nodes of its tree too, and forgets the rest.
    """

    device: torch.device
    """Where the model and its logits are."""
    max_length: int | None
    """Most tokens that the model can read, if its config says so."""
    forwards: int
    """Forward passes so far."""
    forests: bool
    """Whether the model reads trees with branches, and more than one text. One that takes no
    attention mask reads one text and a chain."""

    def read(self, texts: Sequence[Sequence[int]], trees: Sequence[Tree]) -> list[torch.Tensor]:
        """Logits after the last token of each text, and after each node of its tree.

        Args:
            texts: ids. Texts keep their index from call to call; new ones come last. One without
                ids is left as it is, and has no logits.
            trees: what may follow each text.

        Returns:
            For each text float ``[1 + N, V]``, N being the size of its tree.
        """

    def extend(self, trees: Sequence[Tree]) -> list[torch.Tensor]:
        """Logits after further nodes, which grow the trees of the last ``read``.

        Args:
            trees: for each text the new nodes. A parent is a node's index among all nodes of the
                text since ``read``, the new ones counted from the number of the old ones on.

        Returns:
            For each text float ``[n, V]``, n being the number of its new nodes.
        """

    def drop(self, index: int) -> None:
        """Forget a text; the last one takes its index. One not read yet is no error."""

    def reset(self) -> None:
        """Forget all texts."""


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
