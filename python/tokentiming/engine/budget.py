"""What to propose in a round: how deep to draft, which nodes to grow, and which to verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tokentiming.drafters.draft import Draft, Visit
from tokentiming.methods import Proposal
from tokentiming.scalars import integer
from tokentiming.tokens.tree import TEXT

MOST_CANDIDATES = 16
"""Maximum number of children of a node, as ``ops.candidates`` gives no more."""


@dataclass(frozen=True)
class Drafted:
    """What one drafter did in a round."""

    seconds: float = 0.0
    """Seconds spent on its drafts."""
    levels: int = 0
    """Forward passes of the draft model."""
    rows: int = 0
    """Rows in these passes."""
    visits: Sequence[Visit] = ()
    nodes: int = 0
    """Verified nodes that it proposed; other drafters may have proposed them too."""
    accepted: int = 0
    """Those of them that were accepted."""
    read: int = 0
    """Tokens of the texts that it drafted for the first time, and had to read."""


@dataclass(frozen=True)
class Outcome:
    """Counts and times of a round."""

    texts: int
    """Texts in the round."""
    rows: int
    """Rows of the target's forward pass."""
    tokens: int
    """Target tokens committed."""
    total: float
    """Seconds of the whole round."""
    drafted: Sequence[Drafted] = ()
    """For each drafter what it did."""
    emitted: Sequence[Sequence[int]] = ()
    """For each text the committed tokens."""
    reads_prompt: bool = False
    """Whether the target also read a prompt, so that the times do not predict later rounds."""

    @property
    def drafting(self) -> float:
        """Seconds spent on all drafts."""
        return sum(drafted.seconds for drafted in self.drafted)


class Budget(Protocol):
    """Decides what is proposed; the emitted distribution does not depend on it.

    The calls of a round: ``begin_round``; then for each drafter, whose number is its ``source``,
    ``limit`` and, unless that is 0, ``grow`` after each level, ``calibrate`` and ``propose``; then
    ``trim``, for methods that propose trees; after verification ``observe``. An error in one of
    them ends the generation. A budget that changes little can derive from ``FixedBudget``.
    """

    @property
    def candidates(self) -> int:
        """Maximum number of children of a node, 1 to 16; 1 for chains."""

    def begin(self) -> None:
        """A new text begins."""

    def begin_round(self, texts: int) -> None:
        """A new round begins with so many texts."""

    def limit(self, source: int, covered: Sequence[float], *, unread: int) -> int:
        """The deepest level that a drafter shall draft in this round, an int; 0 for no draft.

        Args:
            source: the drafter.
            covered: for each text the probability that its next token is proposed already.
            unread: number of tokens in texts that it would draft for the first time.
        """

    def grow(
        self, source: int, drafts: Sequence[Draft], covered: Sequence[Mapping[int, float]]
    ) -> list[list[int]]:
        """Choose the nodes of each draft to grow in a further level; none ends drafting.

        The result has a list for each draft, with nodes of its ``open_nodes()``.

        Args:
            source: the drafter.
            drafts: of all texts.
            covered: for each node of a draft, and for ``TEXT``, the probability that the token
                after it is proposed already by another drafter.
        """

    def calibrate(self, source: int, draft: Draft) -> list[float]:
        """Better estimates of the probability that each token is emitted after its ancestors.

        The drafter's own are ``draft.confidences``, one for each token.
        """

    def propose(self, source: int, proposals: Sequence[Proposal]) -> Sequence[Proposal]:
        """A drafter is done: correct the estimates of what it and those before it propose.

        The result has a proposal for each text, as that of ``trim``.
        """

    def trim(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Keep the nodes that are worth a row in the target's forward pass."""

    def observe(self, outcome: Outcome) -> None:
        """Record a round."""


class FixedBudget:
    """Proposes the same shape of tree in every round.

    Args:
        depth: levels to draft.
        nodes: maximum number of target tokens proposed for each text; by default ``depth``.
        width: maximum number of nodes grown in a level of a text; 1 gives a chain, or a comb if
            there are several candidates.
        candidates: children drafted for each node that is grown; 1 makes chains.

    Raises:
        TypeError: one of them is not an integer.
        ValueError: one of them is negative, ``width`` or ``candidates`` is 0, or ``candidates`` is
            above 16.

    Example:
        >>> chain = FixedBudget(depth=5)
        >>> comb = FixedBudget(depth=5, nodes=14, candidates=4)
        >>> tree = FixedBudget(depth=6, nodes=32, width=8, candidates=8)
    """

    def __init__(
        self, *, depth: int, nodes: int | None = None, width: int = 1, candidates: int = 1
    ) -> None:
        self.candidates = integer(candidates, "candidates", least=1, caller="FixedBudget")
        if self.candidates > MOST_CANDIDATES:
            raise ValueError(
                f"FixedBudget: candidates is {candidates}; give at most {MOST_CANDIDATES}"
            )
        self._depth = integer(depth, "depth", least=0, caller="FixedBudget")
        self._nodes = integer(
            depth if nodes is None else nodes, "nodes", least=0, caller="FixedBudget"
        )
        self._width = integer(width, "width", least=1, caller="FixedBudget")

    def begin(self) -> None:
        """All texts are alike."""

    def begin_round(self, texts: int) -> None:
        """All rounds are alike."""

    def limit(self, source: int, covered: Sequence[float], *, unread: int) -> int:
        return self._depth

    def grow(
        self, source: int, drafts: Sequence[Draft], covered: Sequence[Mapping[int, float]]
    ) -> list[list[int]]:
        grown = []
        for draft in drafts:
            probs = path_probs(draft.parents, draft.confidences)
            best = set(best_first(probs)[: self._nodes])
            depths = draft.tree.depths
            level = [n for n in draft.open_nodes() if depths[n] == max(depths)]
            worth = [n for n in level if n in best or self.candidates == 1]
            grown.append(sorted(sorted(worth, key=lambda n: -probs[n])[: self._width]))
        return grown

    def calibrate(self, source: int, draft: Draft) -> list[float]:
        return list(draft.confidences)

    def propose(self, source: int, proposals: Sequence[Proposal]) -> Sequence[Proposal]:
        return proposals

    def trim(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        return [
            proposal
            if (self.candidates == 1 and proposal.tree.is_chain) or not proposal.estimates
            else proposal.only(best_nodes(proposal, self._nodes))
            for proposal in proposals
        ]

    def observe(self, outcome: Outcome) -> None:
        """The shape does not adapt."""


def path_probs(parents: Sequence[int], confidences: Sequence[float]) -> list[float]:
    """The probability of each node's path: the product of its confidences."""
    probs: list[float] = []
    for parent, confidence in zip(parents, confidences, strict=True):
        probs.append(confidence * (1.0 if parent == TEXT else probs[parent]))
    return probs


def best_first(probs: Sequence[float]) -> list[int]:
    """Nodes by decreasing probability; a parent comes before its children."""
    return sorted(range(len(probs)), key=lambda node: -probs[node])


def best_nodes(proposal: Proposal, count: int) -> list[int]:
    """The nodes with the highest estimates, ascending, and with each node its parent.

    A node that several drafters propose may have a higher estimate than its parent.
    """
    limited: list[float] = []
    given = proposal.estimates or [1.0] * len(proposal.tree)
    for parent, estimate in zip(proposal.tree.parents, given, strict=True):
        limited.append(estimate if parent == TEXT else min(estimate, limited[parent]))
    return sorted(best_first(limited)[:count])
