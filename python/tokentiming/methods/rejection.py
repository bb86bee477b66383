"""Rejection sampling: what the methods that judge a token by its law have in common."""

from __future__ import annotations

import torch

from tokentiming import ops
from tokentiming.devices import send
from tokentiming.drafters.base import Choice
from tokentiming.methods.base import Method, Proposal, TargetRows, lawful
from tokentiming.noise import Noise
from tokentiming.vocabulary import Vocabulary
from tokentiming.vocabulary_map import VocabularyMap


class Rejection(Method):
    """Accepts ``x`` with ``min(1, p(x) / q(x))``, else draws from ``norm(max(p - q, 0))``.

    The emitted token has the law ``p`` if, given all that was drawn before, ``x`` has the law
    ``q``. Hence whether a position is proposed may depend on the draft's row and on earlier draws
    but not on the token drawn there: a draft stops after a token, never instead of it. Mass that
    ``q`` lacks to 1 belongs to draws without a target token, and such a draw is a rejection.

    A drafter without laws proposes each token with certainty, and ``q`` is a point mass.

    Source: Leviathan et al., arXiv 2211.17192, Algorithm 1; Chen et al., arXiv 2302.01318.
    """

    _mapped: tuple[Vocabulary, Vocabulary] | None = None

    def begin(self, noise: Noise, draft: Vocabulary | None, target: Vocabulary) -> None:
        super().begin(noise, draft, target)
        self._draws = noise.stream("draft")
        self._verdicts = noise.stream("verify")
        if draft is not None and self._mapped != (draft, target):
            self.map = VocabularyMap.build(draft, target)
            self._mapped = draft, target

    def choose_draft(self, scores: torch.Tensor, states: torch.Tensor) -> Choice | None:
        law = torch.softmax(scores, 1)
        token = self._draws.draw(law)
        return Choice(token, law[0, token], law)

    def verify(self, rows: TargetRows, proposal: Proposal) -> list[int]:
        size = len(self.target_vocabulary)  # behind it the head is padded
        ids = list(proposal.ids)
        scores = rows.scores(range(len(ids) + 1))[:, :size]
        if proposal.missed:
            ids.append(-1)
            scores = torch.cat((scores, scores[-1:]))  # not read: a missed draw is a rejection
        device = scores.device
        verdict = ops.verify(
            send(torch.tensor([ids], dtype=torch.int64), device),
            target_logits=scores[None],
            draft_probs=None if proposal.laws is None else send(proposal.laws[None], device),
            uniforms=send(self._verdicts.uniforms(len(scores))[None], device),
        )
        tokens: list[int] = verdict.tokens[0].tolist()
        lawful(tokens[0])
        return [token for token in tokens if token >= 0]
