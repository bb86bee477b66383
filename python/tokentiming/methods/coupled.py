"""Shared-noise coupling: draft and target race on the same exponentials."""

from __future__ import annotations

import torch

from tokentiming.drafters.base import Choice
from tokentiming.methods.base import Matching, Method


class _Coupled(Matching):
    def choose_draft(self, scores: torch.Tensor, states: torch.Tensor) -> Choice:
        token = self.noise.race(scores, self.draft_vocabulary, states)
        # The lead of the winner tells more than the token's probability: an improbable token that
        # won by much also wins under a similar distribution. Between models that agree on half of
        # their draws a lead of about one nat makes even odds; the draft length corrects for others.
        lead = self.noise.lead(scores, self.draft_vocabulary, states, token)
        return Choice(token, torch.sigmoid(lead - 1))

    def choose_target(self, scores: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return self.noise.race(scores, self.target_vocabulary, states)


class Coupled(Method):
    """Both models draw with the same noise, so that similar distributions draw the same bytes.

    The emitted token depends on the target's distribution and on the noise at its state, which is
    used once; a draft changes neither. The distribution is therefore the target's own for any
    drafter, and a seed gives the same text with any drafter or none.

    Source: the exponential race (Gumbel-max trick) over a noise keyed by (seed, row, state, bytes).
    """

    name = "coupled"
    bound = _Coupled
