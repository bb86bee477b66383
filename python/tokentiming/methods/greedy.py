"""Greedy decoding, the same for every method that re-encodes the draft."""

from __future__ import annotations

import torch

from tokentiming.drafters.base import Choice
from tokentiming.methods.base import Matching, probability
from tokentiming.noise import State


class Greedy(Matching):
    """Both models take their most likely token, of equals the lowest id."""

    name = "greedy"

    def choose_draft(self, scores: torch.Tensor, state: State) -> Choice:
        token = int(scores.argmax())
        return Choice(token, probability(scores, token))

    def choose_target(self, scores: torch.Tensor, state: State) -> int:
        return int(scores.argmax())
