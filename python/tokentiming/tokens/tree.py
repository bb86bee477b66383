"""Trees of tokens that may follow a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

TEXT = -1
"""Stands for the text as the parent of the nodes that directly follow it."""


@dataclass(frozen=True)
class Tree:
    """Nodes with a token each. Every path from the text to a node is a possible continuation.

    A chain is a tree without branches. Siblings hold different tokens.

    >>> tree = Tree([5, 6, 7, 8], [TEXT, 0, 0, 2])  # 5 6, and 5 7 8
    >>> tree.depths, tree.path(3), tree.child(0, 7)
    ([1, 2, 2, 3], [0, 2, 3], 2)
    """

    tokens: Sequence[int] = ()
    parents: Sequence[int] = ()
    """For each node the index of its parent, which comes before it, or ``TEXT``."""

    @classmethod
    def chain(cls, tokens: Sequence[int]) -> Tree:
        """A tree in which each token is the parent of the next."""
        return cls(tokens, range(TEXT, len(tokens) - 1))

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def is_chain(self) -> bool:
        """Whether each node is the parent of the next."""
        return all(parent == node - 1 for node, parent in enumerate(self.parents))

    @cached_property
    def depths(self) -> list[int]:
        """Number of tokens from the text to each node, including its own."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == TEXT else depths[parent] + 1)
        return depths

    @cached_property
    def _children(self) -> dict[tuple[int, int], int]:
        nodes = zip(self.parents, self.tokens, strict=True)
        return {edge: node for node, edge in enumerate(nodes)}

    def child(self, node: int, token: int) -> int | None:
        """The child of a node, or of the text, with this token; None if there is none."""
        return self._children.get((node, token))

    def follow(self, tokens: Sequence[int]) -> list[int]:
        """Nodes of the longest path from the text whose tokens begin these."""
        nodes: list[int] = []
        node = TEXT
        for token in tokens:
            child = self.child(node, token)
            if child is None:
                break
            nodes.append(child)
            node = child
        return nodes

    def path(self, node: int) -> list[int]:
        """Nodes from the first after the text to this one; none for the text itself."""
        nodes: list[int] = []
        while node != TEXT:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def only(self, nodes: Sequence[int]) -> Tree:
        """The tree of some nodes, which are ascending and include the parent of each."""
        number = {TEXT: TEXT} | {node: i for i, node in enumerate(nodes)}
        tokens = [self.tokens[node] for node in nodes]
        return Tree(tokens, [number[self.parents[node]] for node in nodes])


NO_TREE = Tree()
"""No proposal."""
