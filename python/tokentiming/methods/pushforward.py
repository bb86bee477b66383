"""The draft's whole distribution, pushed forward into the target's vocabulary."""

from __future__ import annotations

from dataclasses import replace

import torch

from tokentiming import ops
from tokentiming.devices import send
from tokentiming.drafters.base import Draft
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
        if not draft.probs:
            return proposal
        drawn = torch.tensor(draft.ids, dtype=torch.int64, device="cpu")
        probs = torch.cat(draft.probs)
        device = probs.device
        lengths = self.map.expansion_offsets[drawn + 1] - self.map.expansion_offsets[drawn]
        lo = torch.arange(len(drawn), device="cpu").repeat_interleave(lengths)[: len(proposal.ids)]
        moved = ops.transfer(
            probs,
            draft_ids=send(drawn, device),
            target_ids=send(torch.tensor(proposal.ids, dtype=torch.int64, device="cpu"), device),
            target_spans=send(torch.stack((lo, lo + 1), 1).int(), device),
            draft_table=self.draft_vocabulary.on(device).table,
            target_table=self.target_vocabulary.on(device).table,
            vocabulary_map=self.map.on(device).core,
        ).probs
        if proposal.missed:
            first_missed = int((lengths == 0).nonzero()[0])
            columns = len(self.target_vocabulary)
            missed = self.map.on(device).push_forward(probs[first_missed], columns)
            moved = torch.cat((moved, missed[None]))
        return replace(proposal, probs=moved)


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
