"""The interface of runners, and functions that all of them need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from tokentiming.tokens.tree import Tree


class ModelRunner(Protocol):
    """Runs one causal language model over several texts, each followed by a tree of tokens.

    A runner remembers the tokens it has read of each text. There is no call to roll back or to keep
    a path. The next ``read`` keeps the longest prefix of each text that has been read, including
    nodes of its tree, and forgets the rest.
    """

    device: torch.device
    """Where the model and its logits are."""
    max_length: int | None
    """Maximum number of tokens that the model can read, if its config gives one."""
    forwards: int
    """Forward passes so far."""
    supports_forests: bool
    """Whether the model reads trees with branches, and more than one text. A model that takes no
    attention mask reads one text and a chain."""

    def read(self, texts: Sequence[Sequence[int]], trees: Sequence[Tree]) -> list[torch.Tensor]:
        """Logits after the last token of each text, and after each node of its tree.

        Args:
            texts: ids. Texts keep their index from call to call; new ones come last. A text without
                ids is left unchanged and gets no logits.
            trees: what may follow each text.

        Returns:
            For each text float ``[1 + N, V]``, N being the size of its tree.
        """

    def extend(self, trees: Sequence[Tree]) -> list[torch.Tensor]:
        """Add nodes to the trees of the last ``read``, and return the logits after them.

        Args:
            trees: for each text the new nodes. Parents index all nodes of the text since ``read``,
                the old ones first and then the new ones.

        Returns:
            For each text float ``[n, V]``, n being the number of its new nodes.
        """

    def drop(self, index: int) -> None:
        """Forget a text; the last one takes its index. An index not read yet is ignored."""

    def reset(self) -> None:
        """Forget all texts."""


def context_length(model: PreTrainedModel) -> int | None:
    """Maximum number of tokens that a model can read, if its config gives it (XLNet's is -1)."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len")  # the second one is MPT's
    limit = next((getattr(config, name) for name in names if hasattr(config, name)), None)
    return limit if limit is not None and limit > 0 else None


def rotations(config: Any) -> list[dict[str, Any]]:
    """The parameters of a model's rotary positions: one dict, and others by layer type."""
    rope = getattr(config, "rope_parameters", None) or {}
    return [rope, *(value for value in rope.values() if isinstance(value, dict))]


def longrope_length(config: Any) -> int | None:
    """Length of text above which LongRoPE changes its rotary tables; None for other positions.

    The tables of a pass depend on its largest position, so a text beyond this length has to reach
    it in its first pass.
    """
    lengths = [
        rope["original_max_position_embeddings"]
        for rope in rotations(config)
        if rope.get("rope_type") == "longrope" and rope.get("original_max_position_embeddings")
    ]
    return min(lengths, default=None)


def common_prefix(left: list[int], right: list[int]) -> int:
    """Length of the longest common prefix of two sequences."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return next(i for i in range(shorter) if left[i] != right[i])
