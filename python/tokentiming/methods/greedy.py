"""Greedy decoding, the same for every method that re-encodes the draft."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokentiming.drafters.base import Candidates
from tokentiming.methods.base import Matching, Method, softmax_at
from tokentiming.noise import Place


class _Greedy(Matching):
    def choose_draft(self, scores: torch.Tensor, places: Sequence[Place], count: int) -> Candidates:
        ids = first(scores, count)
        probs = softmax_at(scores, ids)
        # NaN in a row makes the probabilities NaN, and then there is no most likely token.
        return Candidates(torch.where(probs.isnan(), -1, ids), probs)

    def choose_among(
        self, tokens: torch.Tensor, scores: torch.Tensor, places: Sequence[Place], count: int
    ) -> Candidates:
        found = self.choose_draft(scores, places, count)
        possible = scores.gather(1, found.ids.clamp(min=0)) > -torch.inf
        ids = torch.where(possible, found.ids, -1)  # a row may have fewer than `count`
        return found._replace(ids=ids).of_columns(tokens)

    def choose_target(self, scores: torch.Tensor, places: Sequence[Place]) -> torch.Tensor:
        return scores.argmax(1)


def first(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The ids ``[R, count]`` of the largest scores; the first is that of ``argmax``."""
    greatest = scores.argmax(1, keepdim=True)
    if count == 1:
        return greatest
    others = scores.scatter(1, greatest, -torch.inf)
    return torch.cat((greatest, others.topk(min(count, scores.shape[1]) - 1, 1).indices), 1)


class Greedy(Method):
    """Both models take their most likely token; ties go to the lowest id."""

    name = "greedy"
    bound = _Greedy
