"""Rejection sampling: what the methods that verify a token by its distribution have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tokentiming import ops
from tokentiming.devices import send
from tokentiming.drafters.base import Choice
from tokentiming.methods.base import BoundMethod, Proposal, TargetRows, valid_token
from tokentiming.tokens.vocabulary_map import VocabularyMap


class Rejection(BoundMethod):
    """Accepts ``x`` with ``min(1, p(x) / q(x))``, else draws from ``norm(max(p - q, 0))``.

    The emitted token has the distribution ``p`` if, given all that was drawn before, ``x`` has the
    distribution ``q``. Hence whether a position is proposed may depend on the draft's row and on
    earlier draws but not on the token drawn there: a draft stops after a token, never instead of
    it. Mass that ``q`` lacks to 1 belongs to draws without a target token, and such a draw is a
    rejection.

    A drafter without distributions proposes each token with certainty, and ``q`` is a point mass.

    Source: Leviathan et al., arXiv 2211.17192, Algorithm 1; Chen et al., arXiv 2302.01318.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.map = VocabularyMap.between(self.draft_vocabulary, self.target_vocabulary)
        self._draws = self.noise.stream("draft")
        self._uniforms = self.noise.stream("verify")

    def choose_draft(self, scores: torch.Tensor, states: torch.Tensor) -> Choice | None:
        probs = torch.softmax(scores, 1)
        token = self._draws.draw(probs)
        return Choice(token, probs[0, token], probs)

    def verify(self, rows: TargetRows, proposal: Proposal) -> Iterator[int]:
        ids = [*proposal.ids, -1] if proposal.missed else list(proposal.ids)
        uniforms = self._uniforms.uniforms(len(ids) + 1)
        if not rows.emitted_only:
            scores = self._scores(rows, range(len(proposal.ids) + 1))
            if proposal.missed:
                scores = torch.cat((scores, scores[-1:]))  # not read: a missed draw is a rejection
            yield from _emitted(ids, scores, proposal.probs, uniforms)
            return
        for row, token in enumerate(ids):
            # The token after an accepted one belongs to the next row, so it is not used here.
            scores = self._scores(rows, range(row, row + 1)).expand(2, -1)
            probs = None if proposal.probs is None else proposal.probs[row : row + 1]
            tokens = _emitted([token], scores, probs, uniforms[[row, -1]])
            yield tokens[0]
            if len(tokens) == 1:
                return
        last = range(len(ids), len(ids) + 1)
        yield from _emitted([], self._scores(rows, last), None, uniforms[-1:])

    def _scores(self, rows: TargetRows, asked: range) -> torch.Tensor:
        return rows.scores(asked)[:, : len(self.target_vocabulary)]  # the rest pads the head


def _emitted(
    ids: Sequence[int], scores: torch.Tensor, probs: torch.Tensor | None, uniforms: torch.Tensor
) -> list[int]:
    """The accepted prefix of M proposed tokens, and one more.

    Args:
        ids: the proposed tokens, -1 for a missed draw.
        scores: of the target, ``[M + 1, V]``.
        probs: the distributions that the tokens were drawn from, ``[M, V]``.
        uniforms: float64 ``[M + 1]``.
    """
    device = scores.device
    verification = ops.verify(
        send(torch.tensor([ids], dtype=torch.int64, device="cpu"), device),
        target_logits=scores[None],
        draft_probs=None if probs is None else send(probs[None], device),
        uniforms=send(uniforms[None], device),
    )
    tokens: list[int] = verification.tokens[0].tolist()
    valid_token(tokens[0])
    return [token for token in tokens if token >= 0]
