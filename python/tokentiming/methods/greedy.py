"""Greedy decoding, the same for every method that re-encodes the draft."""

from __future__ import annotations

import torch

from tokentiming.drafters.base import Choice
from tokentiming.methods.base import Matching, Method, softmax_at


class _Greedy(Matching):
    def choose_draft(self, scores: torch.Tensor, states: torch.Tensor) -> Choice:
        token = scores.argmax(1)
        probability = softmax_at(scores, token)
        # NaN in a row makes the probability NaN, and then there is no most likely token.
        return Choice(torch.where(probability.isnan(), -1, token), probability)

    def choose_target(self, scores: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return scores.argmax(1)


class Greedy(Method):
    """Both models take their most likely token; among equals, the lowest id."""

    name = "greedy"
    bound = _Greedy
