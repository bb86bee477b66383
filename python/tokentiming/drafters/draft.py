"""A draft: a tree of tokens in the draft's vocabulary."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from tokentiming.tokens.tree import TEXT, Tree
from tokentiming.tokens.vocabulary import Vocabulary

NO_TOKEN = -2
"""Token id of a draw that found no token."""


class Visit(NamedTuple):
    """A node of a draft that the target reached and whose children were drafted."""

    confidences: Sequence[float]
    """Confidences of its children, the likeliest first."""
    emitted: int | None
    """Index of the child that the target emitted; None if it emitted none of them."""
    depth: int = 0
    """Number of drafted tokens before its children."""


@dataclass
class Draft:
    """A tree of tokens that may follow a text, in the draft's vocabulary."""

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """As in ``Tree``."""
    confidences: list[float] = field(default_factory=list)
    """Estimated probability that the target emits each token, given that it emits its ancestors."""
    distributions: dict[int, torch.Tensor] = field(default_factory=dict)
    """The draft's distribution ``[1, V]`` after a node or ``TEXT``, for methods that use it."""
    limit: int = 1_000_000
    """The deepest level wanted; 0 for no draft. A level is a token of a model; a drafter of smaller
    tokens counts several of them as one level."""
    candidates: int = 1_000_000
    """Maximum number of children of a node; 1 for a chain."""
    special_ids: Collection[int] = ()
    """Ids that end a path."""
    expanded: set[int] = field(default_factory=set)
    """Nodes, or ``TEXT``, whose children have been drafted."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tree(self) -> Tree:
        return Tree(self.ids, self.parents)

    @property
    def probs(self) -> list[torch.Tensor]:
        """The distributions that the tokens of a chain were drawn from, each ``[1, V]``.

        The list is empty if the method uses no distributions or the drafter has none.
        """
        return [self.distributions[node] for node in self.parents if node in self.distributions]

    def extend(self, ids: Sequence[int], parent: int | None = None) -> None:
        """Append a chain of tokens with confidence 1.

        Args:
            ids: in the draft's vocabulary.
            parent: the node that they follow; by default the last one.
        """
        for token in ids:
            parent = len(self) - 1 if parent is None else parent
            self._append(token, parent, 1.0)
            parent = None

    def take(self, node: int, candidates: Sequence[tuple[int, float]]) -> None:
        """Append candidates, with their confidences, as children of a node or of ``TEXT``."""
        self.expanded.add(node)
        for rank, (token, confidence) in enumerate(candidates):
            if token >= 0:
                self._append(token, node, confidence)
            elif token != NO_TOKEN and rank == 0:
                raise ValueError(
                    "Draft.take: the draft's scores hold NaN or +inf, or none that is finite"
                )

    def _append(self, token: int, parent: int, confidence: float) -> None:
        self.ids.append(token)
        self.parents.append(parent)
        self.confidences.append(confidence)

    def open_nodes(self) -> list[int]:
        """Nodes whose children can still be drafted."""
        return [
            node
            for node, depth in enumerate(self.tree.depths)
            if depth < self.limit
            and node not in self.expanded
            and self.ids[node] not in self.special_ids
        ]

    def along(self, data: bytes, vocabulary: Vocabulary) -> list[int]:
        """Nodes of the longest path whose tokens spell a prefix of ``data``."""
        best: list[int] = []
        reached: dict[int, tuple[int, list[int]]] = {TEXT: (0, best)}
        longest = 0
        for node, (token, parent) in enumerate(zip(self.ids, self.parents, strict=True)):
            if parent not in reached or token in self.special_ids:
                continue
            offset, path = reached[parent]
            piece = vocabulary.token_bytes(token)
            if data[offset : offset + len(piece)] == piece:
                reached[node] = offset + len(piece), [*path, node]
                if offset + len(piece) > longest:
                    longest, best = reached[node]
        return best

    def visits(self, data: bytes, vocabulary: Vocabulary) -> Iterator[Visit]:
        """The nodes along the bytes that the target emitted, and which child it emitted of each.

        A node is left out if ``data`` ends inside one of its children: whether the target emits
        that child is not known yet.
        """
        path = self.along(data, vocabulary)
        for depth, (node, onward) in enumerate(zip([TEXT, *path], [*path, None], strict=True)):
            children = [child for child, parent in enumerate(self.parents) if parent == node]
            spelled = [vocabulary.token_bytes(self.ids[child]) for child in children]
            if onward is not None:
                yield Visit([self.confidences[c] for c in children], children.index(onward), depth)
                data = data[len(vocabulary.token_bytes(self.ids[onward])) :]
            elif children and not any(piece.startswith(data) for piece in spelled):
                yield Visit([self.confidences[c] for c in children], None, depth)

    def check(self, vocabulary: Vocabulary) -> None:
        """Refuse what is not a tree of tokens of the drafter's vocabulary, and keep what is.

        Raises:
            ValueError: what is wrong with the first node that is refused. It and all nodes after
                it are forgotten.
        """
        nodes = zip(self.ids, self.parents, self.confidences, strict=False)
        wrong = None
        for node, (token, parent, confidence) in enumerate(nodes):
            wrong = _fault(node, token, parent, confidence, len(vocabulary))
            if wrong:
                self._forget(node)
                break
        shortest = min(len(self.ids), len(self.parents), len(self.confidences))
        if not wrong and max(len(self.ids), len(self.parents), len(self.confidences)) > shortest:
            wrong = "ids, parents and confidences differ in length"
            self._forget(shortest)
        if not wrong and self.distributions and len(self.probs) < len(self.ids):
            wrong = "some nodes were drawn from a distribution and others were not"
            self._forget(0)
        if wrong:
            raise ValueError(f"Draft.check: {wrong}")

    def _forget(self, node: int) -> None:
        del self.ids[node:], self.parents[node:], self.confidences[node:]


def _fault(node: int, token: Any, parent: Any, confidence: float, size: int) -> str | None:
    """What is wrong with a node of a draft, or None."""
    if not hasattr(token, "__index__") or not 0 <= token < size:
        return f"the draft holds {token!r}, which is not an id of its vocabulary (0..{size - 1})"
    if not hasattr(parent, "__index__") or not TEXT <= parent < node:
        return f"node {node} has the parent {parent!r}; give an earlier node, or TEXT"
    if not 0 <= confidence <= 1:
        return f"node {node} has the confidence {confidence!r}; give a probability"
    return None
