"""String-level exact match."""

from __future__ import annotations

from typing import Any

import torch

from tokentiming.drafters.base import Choice
from tokentiming.methods.base import Matching, Method


class _Slem(Matching):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._draws = self.noise.stream("draft")

    def choose_draft(self, scores: torch.Tensor, states: torch.Tensor) -> Choice:
        probs = torch.softmax(scores, 1)
        token = self._draws.draw(probs)
        return Choice(token, probs[0, token])

    def choose_target(self, scores: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return self.noise.race(scores, self.target_vocabulary, states)


class Slem(Method):
    """Draft and target draw independently; equal re-encoded tokens are accepted.

    Source: arXiv 2502.05202, Algorithm 2 (String-Level Exact Match).
    """

    name = "slem"
    bound = _Slem
