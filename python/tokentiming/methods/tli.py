"""Token-level intersection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tokentiming.drafters.base import Candidates
from tokentiming.drafters.draft import NO_TOKEN, Draft
from tokentiming.methods.base import Method
from tokentiming.methods.proposal import Proposal
from tokentiming.methods.rejection import Rejection
from tokentiming.noise import Noise, Place
from tokentiming.tokens.vocabulary_map import NONE


class _Tli(Rejection):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.draft_map = self.map.shared

    def choose_draft(self, scores: torch.Tensor, places: Sequence[Place], count: int) -> Candidates:
        probs = torch.softmax(scores, 1)
        shared = probs * (self.map.on(probs.device).exact != NONE)
        mass = shared.sum(1, keepdim=True)
        drawn = torch.stack(
            [
                place.noise.draft.draw(row[None])
                for row, place in zip(torch.where(mass > 0, shared, 1), places, strict=True)
            ]
        )
        without = torch.where(mass.isnan(), -1, NO_TOKEN)
        ids = torch.where(mass > 0, drawn, without)
        return Candidates(ids, shared.gather(1, drawn.clamp(min=0)) / mass, probs)

    def transcode(self, draft: Draft, noise: Noise) -> Proposal:
        ids: list[int] = self.map.exact[draft.ids].tolist()
        return Proposal.chain(ids[: ids.index(NONE)] if NONE in ids else ids)

    def transfer(self, draft: Draft, proposal: Proposal) -> Proposal:
        if not draft.probs or not len(proposal):
            return proposal
        probs = torch.cat(draft.probs)
        probs = probs * (self.map.on(probs.device).exact != NONE)
        probs /= probs.sum(1, keepdim=True)
        return replace(proposal, probs=probs, draft_rows=range(len(proposal)))


class Tli(Method):
    """The draft samples from the tokens that both vocabularies share, with its distribution
    normalized over them.

    Only the draft is restricted. The target keeps all its tokens, and emits those that the draft
    lacks after rejections. Neither model is modified.

    Source: arXiv 2502.05202, Algorithm 4 (Token-Level Intersection).
    """

    name = "tli"
    bound = _Tli
