"""String-level exact match."""

from __future__ import annotations

import torch

from tokentiming.drafters.base import Choice
from tokentiming.methods.base import Matching
from tokentiming.noise import Noise
from tokentiming.tokens.vocabulary import Vocabulary


class Slem(Matching):
    """Draft and target draw independently; equal re-encoded tokens are accepted.

    Source: arXiv 2502.05202, Algorithm 2 (String-Level Exact Match).
    """

    name = "slem"

    def begin(self, noise: Noise, draft: Vocabulary | None, target: Vocabulary) -> None:
        super().begin(noise, draft, target)
        self._draws = noise.stream("draft")

    def choose_draft(self, scores: torch.Tensor, states: torch.Tensor) -> Choice:
        distribution = torch.softmax(scores, 1)
        token = self._draws.draw(distribution)
        return Choice(token, distribution[0, token])

    def choose_target(self, scores: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return self.noise.race(scores, self.target_vocabulary, states)
