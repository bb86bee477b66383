"""Toy pairs of vocabularies that are not nested, and together cover all difficult cases."""

from __future__ import annotations

from fractions import Fraction

import torch

from tests.support import toys
from tokentiming import Draft, Vocabulary
from tokentiming.tokens.tree import Tree

Distribution = dict[tuple[int, ...], Fraction]
"""Probabilities of sequences of tokens."""


class Gram(toys.ToyModel):
    """A distribution over a few tokens, given the last two of them.

    Probabilities are multiples of 1/64, some of them 0, and float64 holds their logarithms.
    """

    def __init__(self, size: int, seed: int, support: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        support = min(support, size)
        self.distribution = torch.zeros(size, size, size, dtype=torch.int64)
        for row in self.distribution.view(-1, size):
            kept = torch.randperm(size, generator=generator)[:support]
            draws = torch.randint(support, (64 - support,), generator=generator)
            row[kept] = 1 + torch.bincount(draws, minlength=support)
        self._scores = (self.distribution.double() / 64).log()

    def after(self, ids: list[int]) -> torch.Tensor:
        return self._scores[ids[-2], ids[-1]]

    def joint(self, length: int, ends: tuple[int, ...]) -> Distribution:
        """Distribution of the next tokens after ``[0, 0]``, up to an end of turn."""
        distribution: Distribution = {}

        def go(ids: list[int], weight: Fraction) -> None:
            new = tuple(ids[2:])
            if len(new) == length or (new and new[-1] in ends):
                distribution[new] = weight
                return
            for token, w in enumerate(self.distribution[ids[-2], ids[-1]].tolist()):
                if w:
                    go([*ids, token], weight * Fraction(w, 64))

        go([0, 0], Fraction(1))
        return distribution


class Adversary(toys.Drafter):
    """Drafts the same string in every round for any text."""

    def __init__(self, vocabulary: Vocabulary, drawn: tuple[int, ...]) -> None:
        super().__init__(vocabulary)
        self._drawn = drawn

    def fill(self, text: bytes, draft: Draft) -> None:
        for token in self._drawn[: draft.limit]:
            draft.extend([token])
            if token in self.vocabulary.special_ids:
                return


class Forester(toys.Drafter):
    """Drafts the same tree in every round for any text."""

    def __init__(self, vocabulary: Vocabulary, tree: Tree) -> None:
        super().__init__(vocabulary)
        self._tree = tree

    def fill(self, text: bytes, draft: Draft) -> None:
        for token, parent in zip(self._tree.tokens, self._tree.parents, strict=True):
            draft.extend([token], parent)


# A merge on each side, a token that begins another, equal bytes twice, a token without bytes, and
# draft tokens whose expansions share a prefix, and end after it or continue.
TARGET = toys.letters(["<eos>", "a", "b", "ab", "a", ""])
DRAFT = toys.letters(["<eos>", "a", "b", "ba", "bab", ""])

# The target merges tokens that the draft draws separately, and its end of turn has another id.
MERGING = toys.letters(["b", "bb", "a", "<eos>", "aab"])
APART = toys.letters(["<eos>", "b", "a", "aa"])

PAIRS = {"crossing": (DRAFT, TARGET), "merging": (APART, MERGING), "same": (TARGET, TARGET)}
TARGET_SEED, DRAFT_SEED = 1, 2


def models(pair: str, support: int = 4) -> tuple[Gram, Gram]:
    """Target and draft of a pair."""
    draft, target = PAIRS[pair]
    return Gram(len(target), TARGET_SEED, support), Gram(len(draft), DRAFT_SEED, support)
