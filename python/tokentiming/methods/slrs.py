"""String-level rejection sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tokentiming.devices import send
from tokentiming.drafters.base import Choice, Draft, WantsMore
from tokentiming.methods.base import Ask, Method, Proposal
from tokentiming.methods.rejection import Rejection
from tokentiming.scalars import integer
from tokentiming.tokens.vocabulary_map import NONE

Prefix = tuple[int, ...]


@dataclass
class EnumeratedDraft(Draft):
    """A draft drawn from a tree that holds the draft's distribution after every beginning of it."""

    tree: dict[Prefix, torch.Tensor] = field(default_factory=dict)


class _Slrs(Rejection):
    method: Slrs

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._special_ids = self.draft_vocabulary.special_ids

    def draft(self, ask: Ask, limit: int, wants_more: WantsMore) -> Draft:
        guess, distribution = _distribution_after((), ask)
        if distribution is None:  # the drafter has no distributions, or cannot draft here
            return guess
        draft = EnumeratedDraft(tree=self._grow(distribution, self._length(limit), ask))
        while (distribution := draft.tree.get(tuple(draft.ids))) is not None:
            token = self._draws.draw(distribution)
            if not draft.take(
                [Choice(token, distribution[0, token], distribution)], self._special_ids
            ):
                break
        return draft

    def transcode(self, draft: Draft) -> Proposal:
        if not isinstance(draft, EnumeratedDraft):
            return super().transcode(draft).cut(1)
        (first,) = self._first_tokens([tuple(draft.drawn)])
        return Proposal(missed=True) if first == NONE else Proposal([first])

    def transfer(self, draft: Draft, proposal: Proposal) -> Proposal:
        if isinstance(draft, EnumeratedDraft):
            return replace(proposal, probs=self._psi(draft.tree)[None])
        return proposal

    def _length(self, limit: int) -> int:
        """Tokens in a string. Where they stay as they are, the first of them decides alone."""
        same = self.draft_vocabulary.fingerprint == self.target_vocabulary.fingerprint
        return 1 if same else min(limit, self.method.lookahead)

    def _grow(
        self, distribution: torch.Tensor, length: int, ask: Ask
    ) -> dict[Prefix, torch.Tensor]:
        """The draft's distribution after every beginning, of up to ``length - 1`` tokens, of a
        string.
        """
        tree: dict[Prefix, torch.Tensor] = {(): distribution}
        level: list[Prefix] = [()]
        for written in range(2, length + 1):
            beginnings = [
                (*prefix, token)
                for prefix in level
                for token in _support(tree[prefix])
                if token not in self._special_ids
            ]
            self._refuse_too_many(len(beginnings), written)
            level = []
            for prefix in beginnings:
                _, after = _distribution_after(prefix, ask)
                if after is not None:  # else the draft's context is full, and the string ends here
                    tree[prefix] = after
                    level.append(prefix)
            self._refuse_too_many(sum(len(_support(tree[prefix])) for prefix in level), written)
        return tree

    def _refuse_too_many(self, strings: int, length: int) -> None:
        if strings > self.method.strings:
            raise ValueError(
                f"Slrs: lookahead of {length} draft tokens makes at least {strings} strings here, "
                f"more than the {self.method.strings} to enumerate; lower lookahead or top_k, "
                "or take a drafter with a small vocabulary"
            )

    def _psi(self, tree: dict[Prefix, torch.Tensor]) -> torch.Tensor:
        """The distribution of the first target token of a string, ``[V_t]``."""
        size = len(self.target_vocabulary)
        if len(tree) == 1:
            return self.map.on(tree[()].device).push_forward(tree[()][0], size)
        reached: dict[Prefix, float] = {(): 1.0}
        strings: dict[Prefix, float] = {}
        for prefix, distribution in tree.items():  # shorter beginnings come first
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
    """One target token a round, judged by the distribution of the first token of the drafted
    string.

    The draft writes a string of K of its tokens, fewer if its turn ends; re-encoding it gives a
    target token to start with. ``psi(t)`` sums the probabilities of all strings that start with
    ``t``, which takes a pass of the draft for each beginning of K - 1 tokens. That is meant for
    drafts of few or short tokens, or a small ``top_k``; K = 1 takes any draft.

    Args:
        lookahead: K, which a small ``draft_length`` lowers further.
        strings: most strings of K > 1 tokens to enumerate in a round.

    Raises:
        TypeError: one of them is not an integer.
        ValueError: one of them is below 1; or, in a round, there are more than ``strings``.

    Source: arXiv 2502.05202, Algorithm 3 (String-Level Rejection Sampling).
    """

    name = "slrs"
    bound = _Slrs

    def __init__(self, lookahead: int = 1, strings: int = 4096) -> None:
        self.lookahead = integer(lookahead, "lookahead", least=1, caller="Slrs")
        self.strings = integer(strings, "strings", least=1, caller="Slrs")


def _distribution_after(beginning: Prefix, ask: Ask) -> tuple[Draft, torch.Tensor | None]:
    """The draft's distribution after a given beginning, by making it draft just that."""
    probs: list[torch.Tensor] = []

    def choose(scores: torch.Tensor, states: torch.Tensor) -> Choice | None:
        distribution = torch.softmax(scores, 1)
        if distribution.isnan().any():
            raise ValueError("Slrs: the draft's scores hold NaN or +inf, or none that is finite")
        probs.append(distribution)
        given = beginning[len(probs) - 1 : len(probs)]
        if not given:
            return None
        return Choice(send(torch.tensor(given, device="cpu"), scores.device), scores.new_ones(1))

    guess = ask(len(beginning) + 1, choose, lambda confidences: True)
    return guess, probs[len(beginning)] if len(probs) > len(beginning) else None


def _support(distribution: torch.Tensor) -> list[int]:
    ids: list[int] = distribution[0].nonzero()[:, 0].tolist()
    return ids
