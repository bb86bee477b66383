"""Where two greedy texts of one target part, and whether rounding explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

TIES = {torch.float32: 1e-3, torch.float16: 0.0625, torch.bfloat16: 0.5}
"""Largest difference of two logits, of 16 and more, that rounding can reverse."""


@dataclass(frozen=True)
class Difference:
    """The first difference of two runs: rounding can change the order of two close logits."""

    position: int
    """Number of new tokens before the difference."""
    gap: float
    """The target's logit of the first run's token minus that of the second run's."""

    def is_tie(self, dtype: torch.dtype) -> bool:
        """Whether rounding in this dtype can have reversed the two logits."""
        return abs(self.gap) <= TIES.get(dtype, 0.0)


@torch.inference_mode()
def difference(
    target: Any, left: torch.Tensor, right: torch.Tensor, prompt: int
) -> Difference | None:
    """The first difference of two runs; None if one run is a prefix of the other.

    Args:
        target: the target model.
        left: ids ``[L]`` of a run, the prompt's included.
        right: the same of the other run.
        prompt: number of the prompt's ids.
    """
    shorter = min(len(left), len(right))
    unequal = (left[:shorter] != right[:shorter]).nonzero()
    if not len(unequal):
        return None
    at = int(unequal[0])
    logits = target(left[None, :at], logits_to_keep=1).logits[0, -1].float()
    return Difference(at - prompt, float(logits[left[at]] - logits[right[at]]))
