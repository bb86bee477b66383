"""Shared-noise coupling: draft and target race on the same exponentials."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokentiming import noise
from tokentiming.drafters.base import Candidates
from tokentiming.methods.base import Matching, Method
from tokentiming.noise import Place


class _Coupled(Matching):
    def choose_draft(self, scores: torch.Tensor, places: Sequence[Place], count: int) -> Candidates:
        # The gaps of the race are better estimates than the tokens' probabilities: an improbable
        # token that won by a large gap also wins under a similar distribution.
        return Candidates(*noise.candidates(scores, self.draft_vocabulary, places, count))

    def choose_among(
        self, tokens: torch.Tensor, scores: torch.Tensor, places: Sequence[Place], count: int
    ) -> Candidates:
        found = noise.candidates(scores, self.draft_vocabulary, places, count, tokens)
        return Candidates(*found).of_columns(tokens)

    def choose_target(self, scores: torch.Tensor, places: Sequence[Place]) -> torch.Tensor:
        return noise.race(scores, self.target_vocabulary, places)


class Coupled(Method):
    """Both models draw with the same noise, so that similar distributions draw the same bytes.

    The emitted token depends on the target's distribution and on the noise at its state, which is
    used once. A draft changes neither. The output distribution is therefore the target's own for
    any drafter, and for the same logits a seed gives the same text with any drafter or none.

    Source: the exponential race (Gumbel-max trick) over a noise keyed by (seed, row, state, bytes).
    """

    name = "coupled"
    bound = _Coupled
