"""String-level exact match."""

from __future__ import annotations

import torch

from tokentiming.methods.base import Choice, Matching, probability
from tokentiming.noise import State


class Slem(Matching):
    """Draft and target draw independently; equal re-encoded tokens are accepted.

    Source: arXiv 2502.05202, Algorithm 2 (String-Level Exact Match).
    """

    name = "slem"
    exact = True

    def choose_draft(self, scores: torch.Tensor, state: State) -> Choice:
        assert self.draft is not None
        token = self.noise.independent().race(scores, self.draft, state)
        return Choice(token, probability(scores, token))

    def choose_target(self, scores: torch.Tensor, state: State) -> int:
        return self.noise.race(scores, self.target, state)
