"""Random texts and trees, read round by round, and the logits of a full pass over each path."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from tokentiming.runners import ModelRunner
from tokentiming.tokens.tree import TEXT, Tree

Reference = Callable[[list[int]], torch.Tensor]
"""Logits ``[n, V]`` of n ids, read at once and without a cache."""


def full_pass(model: torch.nn.Module) -> Reference:
    def logits(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([ids], device=model.device), use_cache=False).logits[0]

    return logits


def path_logits(reference: Reference, text: list[int], tree: Tree) -> torch.Tensor:
    """Logits after the text and after each node, ``[1 + N, V]``: a full pass for each."""
    paths = [[*text, *(tree.tokens[n] for n in tree.path(node))] for node in range(len(tree))]
    return torch.stack([reference(path)[-1] for path in [text, *paths]])


def grown(tree: Tree, nodes: int, dice: random.Random, vocabulary: int, branches: bool) -> Tree:
    """The tree with further nodes; siblings hold different tokens."""
    tokens, parents = list(tree.tokens), list(tree.parents)
    for _ in range(nodes):
        parent = dice.randrange(TEXT, len(tokens)) if branches else len(tokens) - 1
        taken = {t for t, p in zip(tokens, parents, strict=True) if p == parent}
        tokens.append(dice.choice([t for t in range(vocabulary) if t not in taken]))
        parents.append(parent)
    return Tree(tokens, parents)


class Rounds:
    """Rounds of reading, extending and keeping, as of speculative decoding.

    Args:
        runner: under test.
        reference: of its model.
        vocabulary: ids are below it.
        texts: the most at a time.
        seed: of all that is random.
        branches: whether trees have any.
    """

    def __init__(
        self,
        runner: ModelRunner,
        reference: Reference,
        vocabulary: int,
        *,
        texts: int,
        seed: int,
        branches: bool = True,
        tolerance: float = 1e-5,
    ) -> None:
        self.runner, self.reference, self.most = runner, reference, texts
        self.dice = random.Random(seed)
        self.vocabulary, self.branches, self.tolerance = vocabulary, branches, tolerance
        self.texts: list[list[int]] = []

    def ids(self, count: int) -> list[int]:
        return [self.dice.randrange(self.vocabulary) for _ in range(count)]

    def play(self, rounds: int) -> None:
        for _ in range(rounds):
            self.change_texts()
            trees = self.read([self.grown(Tree()) for _ in self.texts])
            for _ in range(self.dice.randrange(3)):
                trees = self.extend(trees)
            for text, tree in zip(self.texts, trees, strict=True):
                node = self.dice.randrange(TEXT, len(tree))
                text += [*(tree.tokens[n] for n in tree.path(node)), *self.ids(1)]

    def change_texts(self) -> None:
        """End a text, add one, or change one from some position on."""
        if len(self.texts) > 1 and self.dice.random() < 0.2:
            index = self.dice.randrange(len(self.texts))
            self.runner.drop(index)
            self.texts[index] = self.texts[-1]
            self.texts.pop()
        while len(self.texts) < self.most and (not self.texts or self.dice.random() < 0.6):
            self.texts.append(self.ids(self.dice.choice([1, 3, 12, 40])))
        if self.dice.random() < 0.2:
            text = self.dice.choice(self.texts)
            text[self.dice.randrange(len(text)) :] = self.ids(2)

    def grown(self, tree: Tree) -> Tree:
        return grown(tree, self.dice.randrange(6), self.dice, self.vocabulary, self.branches)

    def read(self, trees: list[Tree]) -> list[Tree]:
        found = self.runner.read(self.texts, trees)
        for text, tree, logits in zip(self.texts, trees, found, strict=True):
            self.check(logits, path_logits(self.reference, text, tree))
        return trees

    def extend(self, trees: list[Tree]) -> list[Tree]:
        whole = [self.grown(tree) for tree in trees]
        new = [
            Tree(after.tokens[len(before) :], after.parents[len(before) :])
            for before, after in zip(trees, whole, strict=True)
        ]
        found = self.runner.extend(new)
        for text, fresh, tree, logits in zip(self.texts, new, whole, found, strict=True):
            expected = path_logits(self.reference, text, tree)
            self.check(logits, expected[len(expected) - len(fresh) :])
        return whole

    def check(self, found: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(found, expected, rtol=self.tolerance, atol=self.tolerance)
