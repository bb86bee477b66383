"""What is proposed already, by its bytes, so that a further drafter is asked only for the rest."""

from __future__ import annotations

from collections import defaultdict

from tokentiming.drafters.draft import Draft
from tokentiming.methods import Proposal
from tokentiming.tokens.tree import TEXT
from tokentiming.tokens.vocabulary import Vocabulary


class Covered:
    """The probability that the token after some bytes is proposed already.

    A proposed token covers each point from its start up to its last byte, with the estimate of its
    path. Drafts of other vocabularies are compared by their bytes.

    Args:
        proposal: of the drafters before.
        vocabulary: the target's.
    """

    def __init__(self, proposal: Proposal, vocabulary: Vocabulary) -> None:
        self._probs: dict[bytes, float] = defaultdict(float)
        paths = {TEXT: b""}
        estimates = proposal.estimates or [1.0] * len(proposal.tree)
        nodes = zip(proposal.tree.tokens, proposal.tree.parents, estimates, strict=True)
        for node, (token, parent, estimate) in enumerate(nodes):
            start = paths[parent]
            paths[node] = path = start + vocabulary.token_bytes(token)
            for end in range(len(start), max(len(path), len(start) + 1)):
                self._probs[path[:end]] += estimate

    def after(self, data: bytes) -> float:
        """The probability that is covered after some bytes, which follow the text."""
        return min(self._probs.get(data, 0.0), 1.0)

    def after_nodes(self, draft: Draft, vocabulary: Vocabulary) -> dict[int, float]:
        """The probability that is covered after each node of a draft, and after ``TEXT``."""
        if not self._probs:
            return dict.fromkeys(range(TEXT, len(draft)), 0.0)
        paths = {TEXT: b""}
        for node, (token, parent) in enumerate(zip(draft.ids, draft.parents, strict=True)):
            paths[node] = paths[parent] + vocabulary.token_bytes(token)
        return {node: self.after(path) for node, path in paths.items()}
