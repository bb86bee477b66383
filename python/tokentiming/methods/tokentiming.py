"""The TokenTiming paper's methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from tokentiming import ops
from tokentiming.devices import send
from tokentiming.drafters.draft import Draft
from tokentiming.methods.base import Method
from tokentiming.methods.proposal import Proposal
from tokentiming.methods.rejection import Rejection
from tokentiming.tokens.vocabulary import Vocabulary

Spans = Callable[[torch.Tensor, torch.Tensor, Vocabulary, Vocabulary], torch.Tensor]


class _TokenTiming(Rejection):
    method: TokenTiming

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.exact = self.draft_vocabulary.fingerprint == self.target_vocabulary.fingerprint

    def transfer(self, draft: Draft, proposal: Proposal) -> Proposal:
        if not draft.probs or not proposal.ids:
            return proposal
        ids = draft.ids
        if proposal.ids[-1] not in self.target_vocabulary.special_ids:
            ids = [token for token in ids if token not in self.draft_vocabulary.special_ids]
        drawn = torch.tensor(ids, device="cpu")
        proxies = torch.tensor(list(proposal.ids), device="cpu")
        rows = torch.cat(draft.probs[: len(drawn)])
        device = rows.device
        spans = self.method.spans(drawn, proxies, self.draft_vocabulary, self.target_vocabulary)
        probs, cases = ops.transfer(
            rows,
            draft_ids=send(drawn, device),
            target_ids=send(proxies, device),
            target_spans=send(spans, device),
            draft_table=self.draft_vocabulary.on(device).table,
            target_table=self.target_vocabulary.on(device).table,
            vocabulary_map=self.map.on(device).core,
        )
        return replace(proposal, probs=probs, cases=cases)


class TokenTiming(Method):
    """The draft's bytes are re-encoded; its probabilities are transferred through an alignment.

    Approximate: where re-encoding merges draft tokens, a proxy token may depend on draft tokens
        that its distribution does not account for. The error of the output's joint distribution is
        at most the sum over positions of ``E[TV(distribution(x given history and q), q)]``;
        ``stats.transfer_cases`` counts the cases of the transfer. Between equal vocabularies the
        method is plain speculative sampling, which is exact.

    Args:
        alignment: ``"dtw"`` takes the draft tokens of each proxy token from dynamic time warping,
            as in the paper; ``"bytes"`` takes the draft tokens with which it shares bytes.

    Raises:
        ValueError: an unknown alignment.

    Source: TokenTiming, arXiv 2510.15545.
    """

    name = "tokentiming"
    case_names = ("point mass", "within", "merge", "inside")
    bound = _TokenTiming

    def __init__(self, alignment: str = "dtw") -> None:
        spans: dict[str, Spans] = {"dtw": warped_spans, "bytes": byte_spans}
        if alignment not in spans:
            raise ValueError(
                f"TokenTiming: alignment is {alignment!r}; choose one of {', '.join(spans)}"
            )
        self.spans = spans[alignment]

    @property
    def exact(self) -> bool:
        return False


class PointMass(Method):
    """The variant of the paper's published code: each proxy token is proposed with certainty.

    It is accepted with probability ``p(x)``; otherwise another token is drawn from ``p`` without
    ``x``. Exact for any proposal, with the acceptance rate of `slem`.

    Source: the code published with TokenTiming, arXiv 2510.15545.
    """

    name = "tokentiming, point mass"
    bound = Rejection


def warped_spans(
    drawn: torch.Tensor, proxies: torch.Tensor, draft: Vocabulary, target: Vocabulary
) -> torch.Tensor:
    """Draft tokens aligned with each proxy token by time warping, int32 ``[M, 2]``."""
    return ops.align(
        draft_ids=drawn, target_ids=proxies, draft_table=draft.table, target_table=target.table
    ).target_spans


def byte_spans(
    drawn: torch.Tensor, proxies: torch.Tensor, draft: Vocabulary, target: Vocabulary
) -> torch.Tensor:
    """Draft tokens that each proxy token shares bytes with, int32 ``[M, 2]``.

    A token without bytes, which is the end of turn, belongs to the last draft token.
    """
    draft_ends = draft.offsets.diff()[drawn].cumsum(0)
    lengths = target.offsets.diff()[proxies]
    ends = lengths.cumsum(0)
    last = len(drawn) - 1
    lo = torch.searchsorted(draft_ends, ends - lengths, right=True).clamp(max=last)
    hi = torch.searchsorted(draft_ends, ends).clamp(max=last) + 1
    return torch.stack((lo, torch.maximum(hi, lo + 1)), 1).int()
