"""What is proposed to the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tokentiming.tokens.tree import NO_TREE, TEXT, Tree


@dataclass(frozen=True)
class Proposal:
    """Tokens proposed to the target, in its vocabulary, and their distributions."""

    tree: Tree = NO_TREE
    estimates: Sequence[float] = ()
    """Estimated probability that the target emits the path to each node."""
    sources: Sequence[tuple[int, ...]] = ()
    """For each node the numbers of the drafters that proposed it, if there are several."""
    missed: bool = False
    """Whether the draft drew a further token that has no counterpart in the target's vocabulary.
    This draw counts as a rejection at the last row of ``probs``.
    """
    probs: torch.Tensor | None = None
    """The distribution of each token of a chain, ``[M, V]``, including a missed one; it may sum to
    less than 1. With ``draft_rows`` the draft's distributions, ``[R, V_d]``. None if each token was
    proposed with certainty, or if the method does not use distributions.
    """
    draft_rows: Sequence[int] = ()
    """The row of ``probs`` that each token was drawn from. Consecutive tokens of one row are of one
    expansion; the core makes their distributions of the row and of the map between vocabularies.
    """
    cases: torch.Tensor | None = None
    """The case of the transfer that gave each distribution, int8 ``[M]``; None if the method does
    not transfer.
    """

    @classmethod
    def chain(cls, ids: Sequence[int], *, missed: bool = False) -> Proposal:
        return cls(Tree.chain(ids), missed=missed)

    @property
    def ids(self) -> Sequence[int]:
        return self.tree.tokens

    def __len__(self) -> int:
        return len(self.tree) + self.missed

    def cut(self, depth: int) -> Proposal:
        """The proposal up to a depth, which does not depend on the drawn tokens."""
        if not len(self) or max(self.tree.depths, default=0) + self.missed <= depth:
            return self
        kept = [node for node, at in enumerate(self.tree.depths) if at <= depth]
        return replace(
            self.only(kept),
            missed=False,
            probs=self._probs_of(depth),
            draft_rows=self.draft_rows[:depth],
            cases=None if self.cases is None else self.cases[:depth],
        )

    def _probs_of(self, depth: int) -> torch.Tensor | None:
        """``probs`` for the tokens up to a depth."""
        if self.probs is None or (self.draft_rows and not depth):
            return None
        return self.probs if self.draft_rows else self.probs[:depth]

    def likeliest_chain(self) -> Proposal:
        """A single path, for targets that read chains: at each node the likeliest child."""
        if self.tree.is_chain:
            return self
        given = self.estimates or [1.0] * len(self.tree)
        kept: list[int] = []
        best: dict[int, int] = {}
        for node, parent in enumerate(self.tree.parents):
            if parent not in best or given[node] > given[best[parent]]:
                best[parent] = node
        node = best.get(TEXT, TEXT)
        while node != TEXT:
            kept.append(node)
            node = best.get(node, TEXT)
        return self.only(kept)

    def only(self, nodes: Sequence[int]) -> Proposal:
        """The proposal of some nodes, which are ascending and include the parent of each."""
        estimates = [self.estimates[node] for node in nodes] if self.estimates else ()
        sources = [self.sources[node] for node in nodes] if self.sources else ()
        return replace(self, tree=self.tree.only(nodes), estimates=estimates, sources=sources)

    @classmethod
    def merge(cls, proposals: Sequence[Proposal]) -> Proposal:
        """One tree of what several drafters propose; paths of equal tokens share their nodes.

        Drafters are numbered in their order. A node that several propose has the highest of their
        estimates.
        """
        if len(proposals) == 1:
            return proposals[0]
        merged: dict[tuple[int, int], int] = {}
        estimates: list[float] = []
        sources: list[tuple[int, ...]] = []
        for source, proposal in enumerate(proposals):
            nodes = {TEXT: TEXT}
            given = proposal.estimates or [1.0] * len(proposal.tree)
            for node, (token, parent) in enumerate(
                zip(proposal.tree.tokens, proposal.tree.parents, strict=True)
            ):
                nodes[node] = merged.setdefault((nodes[parent], token), len(merged))
                if nodes[node] == len(estimates):
                    estimates.append(given[node])
                    sources.append(())
                sources[nodes[node]] += (source,)
                estimates[nodes[node]] = max(estimates[nodes[node]], given[node])
        tree = Tree([token for _, token in merged], [parent for parent, _ in merged])
        return cls(tree, estimates, sources)

    def credit(self, source: int, emitted: Sequence[int]) -> tuple[int, int]:
        """The number of nodes that a drafter proposed, and of those that the target emitted."""
        path = self.tree.follow(emitted)
        if not self.sources:  # there is a single drafter
            return len(self.tree), len(path)
        proposed = {node for node, by in enumerate(self.sources) if source in by}
        return len(proposed), len(proposed.intersection(path))
