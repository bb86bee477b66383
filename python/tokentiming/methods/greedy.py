"""Greedy decoding, the same for every method that re-encodes the draft."""

from __future__ import annotations

import torch

from tokentiming.drafters.base import Choice
from tokentiming.methods.base import Matching, shares


class Greedy(Matching):
    """Both models take their most likely token, of equals the lowest id."""

    name = "greedy"

    def choose_draft(self, scores: torch.Tensor, states: torch.Tensor) -> Choice:
        token = scores.argmax(1)
        share = shares(scores, token)
        return Choice(torch.where(share.isnan(), -1, token), share)  # of NaN no token is the best

    def choose_target(self, scores: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return scores.argmax(1)
