"""What every runner does, and facts about models that all of them need."""

from __future__ import annotations

from transformers import PreTrainedModel


def context_length(model: PreTrainedModel) -> int | None:
    """Most tokens that a model can read, where its config says so (XLNet's says -1)."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit if limit is not None and limit > 0 else None


def common_prefix(left: list[int], right: list[int]) -> int:
    """Length of the longest common beginning of two sequences."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return next(i for i in range(shorter) if left[i] != right[i])
