"""What it says about a token that other drafters propose different ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from tokentiming.methods import Proposal
from tokentiming.tokens.tree import TEXT


class Disagreement:
    """Corrects the estimates of tokens that only some of the drafters propose.

    If a drafter expects a token with probability p, and others expect different ones in its place
    with probabilities that add up to q, the token is expected with ``p * (1 - a * q)``. The share
    ``a`` is learned for each drafter: it is near 0 for one that is right where others disagree, as
    a model is, and near 1 for one that is then wrong, as a source of repetitions is.
    """

    _PRIOR, _WEIGHT = 0.5, 1.0
    _MEMORY = 0.98  # of a round

    def __init__(self) -> None:
        self._missed: dict[int, float] = defaultdict(float)  # expected minus emitted tokens
        self._disputed: dict[int, float] = defaultdict(float)  # p * q

    def share(self, source: int) -> float:
        """The share ``a`` of a drafter."""
        missed = self._PRIOR * self._WEIGHT + self._missed[source]
        return min(max(missed / (self._WEIGHT + self._disputed[source]), 0.0), 1.0)

    def correct(self, proposal: Proposal) -> Proposal:
        """The proposal of several drafters with corrected estimates."""
        if not proposal.sources:
            return proposal
        shares = {source: self.share(source) for by in proposal.sources for source in by}
        probs = {TEXT: 1.0}
        for node, (prob, others) in enumerate(_disputes(proposal)):
            share = min(shares[source] for source in proposal.sources[node])
            probs[node] = probs[proposal.tree.parents[node]] * prob * (1 - share * others)
        return replace(proposal, estimates=[probs[node] for node in range(len(proposal.tree))])

    def observe(self, proposal: Proposal, emitted: Sequence[int]) -> None:
        """Record which tokens of an uncorrected proposal the target emitted."""
        if not proposal.sources:
            return
        for sums in (self._missed, self._disputed):
            for source in sums:
                sums[source] *= self._MEMORY
        path = proposal.tree.follow(emitted)
        visited = {TEXT, *path[: len(emitted) - 1]}
        for node, (prob, others) in enumerate(_disputes(proposal)):
            by = proposal.sources[node]
            if proposal.tree.parents[node] in visited and len(by) == 1 and others:
                self._missed[by[0]] += prob - (node in path)
                self._disputed[by[0]] += prob * others


def _disputes(proposal: Proposal) -> list[tuple[float, float]]:
    """For each node the probability of its token, and that of other drafters' tokens in its place.

    Both are conditional on the node's parent.
    """
    parents = proposal.tree.parents
    estimates = dict(enumerate(proposal.estimates)) | {TEXT: 1.0}
    probs = [
        min(estimates[node] / estimates[parent], 1.0) if estimates[parent] else 0.0
        for node, parent in enumerate(parents)
    ]
    siblings: dict[int, list[int]] = defaultdict(list)
    for node, parent in enumerate(parents):
        siblings[parent].append(node)
    sources = [frozenset(by) for by in proposal.sources]
    others = [
        sum(probs[other] for other in siblings[parent] if sources[node].isdisjoint(sources[other]))
        for node, parent in enumerate(parents)
    ]
    return [(prob, min(sum_, 1.0)) for prob, sum_ in zip(probs, others, strict=True)]
