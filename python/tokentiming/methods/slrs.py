"""String-level rejection sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from tokentiming.drafters.base import Candidates, Grow
from tokentiming.drafters.draft import Draft
from tokentiming.methods.base import Method
from tokentiming.methods.proposal import Proposal
from tokentiming.methods.rejection import Rejection
from tokentiming.noise import Noise, Place
from tokentiming.scalars import integer
from tokentiming.tokens.tree import TEXT
from tokentiming.tokens.vocabulary_map import NONE

Prefix = tuple[int, ...]


class _Slrs(Rejection):
    method: Slrs

    def choose_draft(self, scores: torch.Tensor, places: Sequence[Place], count: int) -> Candidates:
        """Only the distributions: the string is drawn once all of them are known."""
        probs = torch.softmax(scores, 1)
        if probs.isnan().any():
            raise ValueError("Slrs: the draft's scores hold NaN or +inf, or none that is finite")
        return Candidates(probs.new_empty((len(probs), 0)).long(), probs[:, :0], probs)

    def grow(self, drafts: Sequence[Draft], worth: Grow) -> list[list[int]]:
        return [self._level(draft) for draft in drafts]

    def _level(self, draft: Draft) -> list[int]:
        """Draft all tokens that may be drawn next, and return their nodes.

        The last level of a string has only distributions and no nodes.
        """
        parents = set(draft.parents)
        ends = [node for node in draft.distributions if node not in parents]
        written = len(draft.tree.path(ends[-1])) + 2 if ends else 1
        if written > 2:
            strings = sum(len(_support(draft.distributions[node])) for node in ends)
            self._refuse_too_many(strings, written - 1)
        if not ends or written > self._length(draft.limit):
            return []
        before = len(draft)
        for node in ends:
            support = _support(draft.distributions[node])
            draft.take(node, [(token, 0.0) for token in support if token not in draft.special_ids])
        self._refuse_too_many(len(draft) - before, written)
        return list(range(before, len(draft)))

    def transcode(self, draft: Draft, noise: Noise) -> Proposal:
        if TEXT not in draft.distributions:  # the drafter has none
            return super().transcode(draft, noise).cut(1)
        (first,) = self._first_tokens([self._drawn(draft, noise)])
        return Proposal(missed=True) if first == NONE else Proposal.chain([first])

    def transfer(self, draft: Draft, proposal: Proposal) -> Proposal:
        if TEXT not in draft.distributions:
            return proposal
        after = {
            tuple(draft.ids[n] for n in draft.tree.path(node)): distribution
            for node, distribution in draft.distributions.items()
        }
        return replace(proposal, probs=self._psi(after)[None])

    def _drawn(self, draft: Draft, noise: Noise) -> Prefix:
        string: list[int] = []
        tree, node = draft.tree, TEXT
        while (distribution := draft.distributions.get(node)) is not None:
            token = int(noise.draft.draw(distribution))
            string.append(token)
            child = tree.child(node, token)
            if child is None:
                break
            node = child
        return tuple(string)

    def _length(self, limit: int) -> int:
        """Tokens in a string; 1 for equal vocabularies, where only the first token matters."""
        same = self.draft_vocabulary.fingerprint == self.target_vocabulary.fingerprint
        return 1 if same else min(limit, self.method.lookahead)

    def _refuse_too_many(self, strings: int, length: int) -> None:
        if strings > self.method.strings:
            raise ValueError(
                f"Slrs: lookahead of {length} draft tokens makes at least {strings} strings here, "
                f"more than the {self.method.strings} to enumerate; lower lookahead or top_k, "
                "or take a drafter with a small vocabulary"
            )

    def _psi(self, tree: dict[Prefix, torch.Tensor]) -> torch.Tensor:
        """The distribution of the first target token of a string, ``[V_t]``.

        Args:
            tree: the draft's distribution after each prefix of a string, short prefixes first.
        """
        size = len(self.target_vocabulary)
        if len(tree) == 1:
            return self.map.on(tree[()].device).push_forward(tree[()][0], size)
        reached: dict[Prefix, float] = {(): 1.0}
        strings: dict[Prefix, float] = {}
        for prefix, distribution in tree.items():  # shorter prefixes come first
            support = _support(distribution)
            for token, probability in zip(support, distribution[0, support].tolist(), strict=True):
                longer = (*prefix, token)
                kind = reached if longer in tree else strings
                kind[longer] = reached[prefix] * probability
        firsts = torch.tensor(self._first_tokens(list(strings)), device="cpu")
        known = firsts != NONE
        weights = torch.tensor(list(strings.values()), dtype=tree[()].dtype, device="cpu")
        return weights.new_zeros(size).index_add_(0, firsts[known], weights[known])

    def _first_tokens(self, strings: Sequence[Prefix]) -> list[int]:
        """The target token that each string of drawn tokens starts with, or -1."""
        texts = [self.draft_vocabulary.decode(string) for string in strings]
        spelled = self.target_vocabulary.encode_all(texts)
        return [
            int(self.map.first[string[0]])
            if len(string) == 1
            else ids[0]
            if ids and self.target_vocabulary.decode(ids) == text
            else NONE
            for string, text, ids in zip(strings, texts, spelled, strict=True)
        ]


class Slrs(Method):
    """Proposes one target token per round: the first token of the re-encoded draft.

    The draft generates a string of K tokens, or fewer if its turn ends. The first target token of
    the re-encoded string is proposed. Its distribution ``psi(t)`` sums the probabilities of all
    strings that start with ``t``, which takes a row of the draft for each prefix of up to K - 1
    tokens. K > 1 is meant for drafts with a small vocabulary or a small ``top_k``; K = 1 works with
    any draft.

    Args:
        lookahead: K; a smaller ``draft_length`` limits it further.
        strings: maximum number of strings of K > 1 tokens to enumerate in a round.

    Raises:
        TypeError: one of them is not an integer.
        ValueError: one of them is below 1; or, in a round, there are more strings than ``strings``.

    Source: arXiv 2502.05202, Algorithm 3 (String-Level Rejection Sampling).
    """

    name = "slrs"
    bound = _Slrs

    def __init__(self, lookahead: int = 1, strings: int = 4096) -> None:
        self.lookahead = integer(lookahead, "lookahead", least=1, caller="Slrs")
        self.strings = integer(strings, "strings", least=1, caller="Slrs")


def _support(distribution: torch.Tensor) -> list[int]:
    ids: list[int] = distribution[0].nonzero()[:, 0].tolist()
    return ids
