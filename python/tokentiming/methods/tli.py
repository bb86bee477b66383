"""Token-level intersection."""

from __future__ import annotations

import torch

from tokentiming import ops
from tokentiming.drafters.base import Choice, Draft
from tokentiming.methods.base import Proposal
from tokentiming.methods.rejection import Rejection
from tokentiming.noise import Noise, State
from tokentiming.vocabulary import Vocabulary
from tokentiming.vocabulary_map import NONE


class Tli(Rejection):
    """The draft samples from the tokens that both vocabularies have, its law normalised over them.

    Only the draft is restricted: the target keeps all its tokens, and emits those that the draft
    lacks by way of rejection. Neither model is modified.

    Source: arXiv 2502.05202, Algorithm 4 (Token-Level Intersection).
    """

    name = "tli"

    def begin(self, noise: Noise, draft: Vocabulary | None, target: Vocabulary) -> None:
        super().begin(noise, draft, target)
        if draft is not None:
            self._shared = self.map.exact >= 0

    def choose_draft(self, scores: torch.Tensor, state: State) -> Choice | None:
        law = torch.softmax(scores, 0)
        shared = law * self._shared
        mass = float(shared.sum())
        if not mass:
            return None
        token = self._draws.draw(shared)
        return Choice(token, float(shared[token]) / mass, law)

    def transcode(self, draft: Draft) -> Proposal:
        ids: list[int] = self.map.exact[draft.drawn].tolist()
        return Proposal(ids[: ids.index(NONE)] if NONE in ids else ids)

    def transfer(self, draft: Draft, proposal: Proposal) -> Proposal:
        if draft.laws:
            proposal.laws = ops.restrict(
                torch.stack(draft.laws), self.map.exact, columns=len(self.target_vocabulary)
            )
        return proposal
