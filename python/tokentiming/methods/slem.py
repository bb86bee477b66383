"""String-level exact match."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokentiming import noise
from tokentiming.drafters.base import Candidates
from tokentiming.methods.base import Matching, Method, softmax_at
from tokentiming.noise import Place


class _Slem(Matching):
    def choose_draft(self, scores: torch.Tensor, places: Sequence[Place], count: int) -> Candidates:
        ids = torch.cat(
            [
                place.noise.draft.draws(row[None], count)
                for row, place in zip(scores, places, strict=True)
            ]
        )
        return Candidates(ids, softmax_at(scores, ids.clamp(min=0)))

    def choose_target(self, scores: torch.Tensor, places: Sequence[Place]) -> torch.Tensor:
        return noise.race(scores, self.target_vocabulary, places)


class Slem(Method):
    """Draft and target draw independently; equal re-encoded tokens are accepted.

    Source: arXiv 2502.05202, Algorithm 2 (String-Level Exact Match).
    """

    name = "slem"
    bound = _Slem
