"""Token-level intersection."""

from __future__ import annotations

from dataclasses import replace

import torch

from tokentiming import ops
from tokentiming.drafters.base import NOTHING, Choice, Draft
from tokentiming.methods.base import Method, Proposal
from tokentiming.methods.rejection import Rejection
from tokentiming.tokens.vocabulary_map import NONE


class _Tli(Rejection):
    def choose_draft(self, scores: torch.Tensor, states: torch.Tensor) -> Choice | None:
        probs = torch.softmax(scores, 1)
        shared = probs * (self.map.on(probs.device).exact != NONE)
        mass = shared.sum(1)
        token = self._draws.draw(torch.where(mass > 0, shared, 1))
        confidence = shared[0, token] / mass
        without = torch.where(mass.isnan(), -1, NOTHING)
        return Choice(torch.where(mass > 0, token, without), confidence, probs)

    def transcode(self, draft: Draft) -> Proposal:
        ids: list[int] = self.map.exact[draft.drawn].tolist()
        return Proposal(ids[: ids.index(NONE)] if NONE in ids else ids)

    def transfer(self, draft: Draft, proposal: Proposal) -> Proposal:
        if not draft.probs:
            return proposal
        probs = torch.cat(draft.probs)
        restricted = ops.restrict(
            probs, self.map.on(probs.device).core, columns=len(self.target_vocabulary)
        )
        return replace(proposal, probs=restricted)


class Tli(Method):
    """The draft samples from the tokens that both vocabularies have, its distribution normalized
    over them.

    Only the draft is restricted: the target keeps all its tokens, and emits those that the draft
    lacks by way of rejection. Neither model is modified.

    Source: arXiv 2502.05202, Algorithm 4 (Token-Level Intersection).
    """

    name = "tli"
    bound = _Tli
