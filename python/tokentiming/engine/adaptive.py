"""A budget that follows the costs and the acceptance measured so far."""

from __future__ import annotations

from collections.abc import Sequence

from tokentiming.drafters.base import Draft
from tokentiming.engine.budget import Outcome, best_first, path_probs
from tokentiming.engine.costs import Costs
from tokentiming.methods import Proposal
from tokentiming.tokens.tree import TEXT

DEEPEST = 12
"""Maximum number of levels drafted in a round. One rejection would waste too many beyond it."""

_WIDEST = 16
"""Maximum number of nodes grown in a level of a text; four times as many may be proposed. It is the
only limit where rows cost almost nothing, as on a GPU."""


class AdaptiveBudget:
    """Proposes nodes whose expected gain exceeds their cost, which is measured during generation.

    A round over B texts is expected to commit B tokens and, for each proposed node, the probability
    that its path is emitted. A level is drafted, and a node is verified, if it increases the
    expected tokens per second of the round. Drafting pauses if rounds with a draft commit fewer
    tokens per second than the target alone. A probe follows each pause, and the pause doubles after
    each probe that fails.

    Args:
        costs: shared by all texts of a decoder.
        candidates: maximum number of children of a node; 1 for chains.

    Source: best-first trees after DySpec, arXiv 2410.11744; tokens per second as the objective
    after SmartSpec, arXiv 2406.14066.
    """

    _PRIOR_ACCEPTANCE = 0.6
    _PRIOR_WEIGHT = 30.0
    _TOKEN_MEMORY = 0.97
    _PRIOR_LEVEL, _PRIOR_ROW = 0.17, 0.03  # seconds, relative to a target pass without a proposal
    _ROUND_MEMORY = 0.9
    _PRIOR_ROUNDS, _PRIOR_YIELD = 6.0, 1.3
    _FIRST_PAUSE, _LONGEST_PAUSE = 8, 64
    _PROBE = 3

    def __init__(self, costs: Costs | None = None, *, candidates: int = 4) -> None:
        self.candidates = candidates
        self._costs = costs or Costs()
        self._visits = self._PRIOR_WEIGHT
        self._first = self._emitted = self._trusted = self._PRIOR_WEIGHT * self._PRIOR_ACCEPTANCE
        self._spent = self._PRIOR_ROUNDS
        self._earned = self._PRIOR_ROUNDS * self._PRIOR_YIELD
        self._rounds = 0
        self._pause = self._FIRST_PAUSE
        self._rounds_paused = 0
        self._probing = False
        self._texts = 1
        self._levels = self._draft_rows = 0

    def begin_round(self, texts: int) -> int:
        self._texts = texts
        self._levels, self._draft_rows = 0, 0
        self._rounds += 1
        if self._rounds >= 2 and self._costs.without_draft(texts) is None:
            return 0  # measure a step without a draft, as the baseline
        self._probing = self._rounds_paused == 1
        if self._rounds_paused:
            self._rounds_paused -= 1
            return self._PROBE if self._probing else 0
        if self._earned >= self._spent and self._could_pay():
            self._pause = self._FIRST_PAUSE
            return DEEPEST
        self._rounds_paused = self._pause
        self._pause = min(2 * self._pause, self._LONGEST_PAUSE)
        return 0

    def grow(self, drafts: Sequence[Draft]) -> list[list[int]]:
        self._levels += 1
        self._draft_rows = sum(len(draft.expanded) for draft in drafts)
        probs = [path_probs(d.parents, d.confidences, self._factor) for d in drafts]
        rate, _ = self._best(probs)
        level, draft_row, row = self._steps()
        first_child = self._first / self._visits
        grown, gain, cost = [], 0.0, level
        for draft, of_nodes in zip(drafts, probs, strict=True):
            gains = {node: of_nodes[node] * first_child for node in draft.open_nodes()}
            worth = [node for node, more in gains.items() if more > rate * (draft_row + row)]
            worth = sorted(sorted(worth, key=lambda node: -of_nodes[node])[:_WIDEST])
            gain += sum(gains[node] for node in worth)
            cost += len(worth) * (draft_row + row)
            grown.append(worth)
        return grown if gain > rate * cost else [[] for _ in drafts]

    def trim(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        probs = [self._path_probs(proposal) for proposal in proposals]
        _, rows = self._best(probs)
        return [
            proposal.only(sorted(best_first(of_nodes)[:rows]))
            for proposal, of_nodes in zip(proposals, probs, strict=True)
        ]

    def observe(self, outcome: Outcome) -> None:
        verifying = outcome.total - outcome.drafting
        self._costs.observe_target(outcome.texts, outcome.rows, verifying)
        if outcome.levels and not self._probing:  # a probe also reads all tokens of the pause
            self._costs.draft.observe(outcome.levels, outcome.draft_rows, outcome.drafting)
        for visit in outcome.visits:
            keep = self._TOKEN_MEMORY
            self._visits = self._visits * keep + 1
            self._first = self._first * keep + (visit.emitted == 0)
            self._emitted = self._emitted * keep + (visit.emitted is not None)
            self._trusted = self._trusted * keep + min(sum(visit.confidences), 1.0)
        baseline = self._costs.without_draft(outcome.texts)
        if outcome.levels and baseline is not None:
            self._spent = self._spent * self._ROUND_MEMORY + outcome.total / baseline
            self._earned = self._earned * self._ROUND_MEMORY + outcome.tokens / outcome.texts

    @property
    def _factor(self) -> float:
        """The factor that calibrates confidences to the emissions observed so far."""
        return self._emitted / max(self._trusted, 1e-9)

    def _path_probs(self, proposal: Proposal) -> list[float]:
        """The probability that each node's path is emitted, at most that of its parent."""
        probs: list[float] = []
        estimates = proposal.estimates or [1.0] * len(proposal.tree)
        depths = proposal.tree.depths
        for node, parent in enumerate(proposal.tree.parents):
            most = 1.0 if parent == TEXT else probs[parent]
            probs.append(min(estimates[node] * self._factor ** depths[node], most))
        return probs

    def _best(self, probs: Sequence[Sequence[float]]) -> tuple[float, int]:
        """The highest expected tokens per second, and the number of nodes per text that reaches it.

        A pass is padded to the text with the most rows, so a further row costs one for each text.
        """
        level, draft_row, row = self._steps()
        baseline = self._costs.without_draft(self._texts) or self._costs.target.base or 1.0
        spent = baseline + self._levels * level + self._draft_rows * draft_row
        tokens = float(self._texts)
        ordered = [sorted(of_nodes, reverse=True) for of_nodes in probs]
        rows = 0
        while True:
            more = sum(of_nodes[rows] for of_nodes in ordered if len(of_nodes) > rows)
            cost = row * self._texts
            if more <= 0 or more * spent <= tokens * cost or rows == 4 * _WIDEST:
                return tokens / spent, rows
            tokens, spent, rows = tokens + more, spent + cost, rows + 1

    def _could_pay(self) -> bool:
        """Whether one level of drafting is expected to gain more than it costs."""
        level, draft_row, row = self._steps()
        baseline = self._costs.without_draft(self._texts) or self._costs.target.base or 1.0
        texts = self._texts
        gained = texts * self._first / self._visits
        return gained * baseline > texts * (level + texts * (draft_row + row))

    def _steps(self) -> tuple[float, float, float]:
        """Seconds for a level of drafting, for a row in it, and for a row of the target's pass."""
        target, draft = self._costs.target, self._costs.draft
        baseline = self._costs.without_draft(self._texts) or (target.base if target.known else 1.0)
        level, draft_row = self._PRIOR_LEVEL * baseline, self._PRIOR_ROW * baseline
        if draft.known:
            level, draft_row = draft.base, draft.slope
        return level, draft_row, target.slope if target.known else self._PRIOR_ROW * baseline
