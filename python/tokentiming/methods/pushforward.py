"""The draft's whole distribution, pushed forward into the target's vocabulary."""

from __future__ import annotations

from dataclasses import replace

import torch

from tokentiming.drafters.draft import Draft
from tokentiming.methods.base import Method
from tokentiming.methods.proposal import Proposal
from tokentiming.methods.rejection import Rejection
from tokentiming.noise import Noise


class _Pushforward(Rejection):
    def transcode(self, draft: Draft, noise: Noise) -> Proposal:
        ids: list[int] = []
        for token in draft.ids:
            expansion = self.map.expansion(token)
            if not expansion:
                return Proposal.chain(ids, missed=bool(draft.probs))
            ids += expansion
        return Proposal.chain(ids)

    def transfer(self, draft: Draft, proposal: Proposal) -> Proposal:
        if not draft.probs or not len(proposal):
            return proposal
        rows: list[int] = []
        for row, token in enumerate(draft.ids):  # a missed one has a row too
            rows += [row] * max(1, len(self.map.expansion(token)))
        return replace(proposal, probs=torch.cat(draft.probs), draft_rows=rows[: len(proposal)])


class Pushforward(Method):
    """Each draft token proposes its own expansion; ``q`` is the exact distribution of the proposed
    tokens.

    The first token of an expansion has the distribution ``q(t) = sum of P(d) over first(d) = t``.
    Inside an expansion, ``q`` is the draft's distribution conditioned on the target tokens already
    taken from the expansion and on there being further ones. Both are known before the token is
    proposed.

    Source: the lossless form of the transfer of arXiv 2510.15545 (TokenTiming). The distributions
        are the same, and the tokens are proposed such that they follow them.
    """

    name = "pushforward"
    bound = _Pushforward
