"""A budget that follows the costs and the acceptance measured so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokentiming.drafters.draft import Draft
from tokentiming.engine.budget import Drafted, Outcome, best_nodes, path_probs
from tokentiming.engine.choice import Choice, best_rows, worth_growing
from tokentiming.engine.costs import Costs
from tokentiming.engine.disagreement import Disagreement
from tokentiming.engine.drafter_record import DrafterRecord
from tokentiming.methods import Proposal
from tokentiming.tokens.tree import TEXT

DEEPEST = 12
"""Maximum number of levels drafted in a round. One rejection would waste too many beyond it."""

_WIDEST = 16
"""Maximum number of nodes grown in a level of a text; four times as many may be proposed. It is the
only limit where rows cost almost nothing, as on a GPU."""

_OVERLAP = 0.5
"""The share of what earlier drafters cover that a later one is not expected to gain. It is below 1
because their estimates err, and a level too few costs more than one too many."""


_PAYBACK = 8
"""Maximum number of rounds in which a batch has to gain what reading its texts costs."""


class AdaptiveBudget:
    """Proposes nodes whose expected gain exceeds their cost, which is measured during generation.

    A round over B texts is expected to commit B tokens and, for each proposed node, the probability
    that its path is emitted. A level is drafted, and a node is verified, if it increases the
    expected tokens per second of the round. A drafter that does not pay pauses.

    Args:
        costs: of the target's passes, shared by all budgets of a decoder.
        candidates: maximum number of children of a node; 1 for chains.

    Source: best-first trees after DySpec, arXiv 2410.11744; tokens per second as the objective
    after SmartSpec, arXiv 2406.14066.
    """

    _PRIOR_ROW = 0.03  # seconds of a row, relative to a pass

    def __init__(self, costs: Costs | None = None, *, candidates: int = 4) -> None:
        self.candidates = candidates
        self._costs = costs or Costs()
        self._records: list[DrafterRecord] = []
        self._disagreement = Disagreement()
        self._start_round(1)

    def _start_round(self, texts: int) -> None:
        self._texts = texts
        self._merged = [Proposal()] * texts  # before estimates are corrected
        self._proposed: list[Sequence[float]] = [[] for _ in range(texts)]
        self._drafting = 0.0  # expected seconds of the drafters that are done
        self._growing = 0.0  # of the one that drafts

    def begin(self) -> None:
        for record in self._records:
            record.begin()

    def begin_round(self, texts: int) -> None:
        self._start_round(texts)

    def limit(self, source: int, covered: Sequence[float], *, unread: int) -> int:
        if source == len(self._records):
            cost, level = self._costs.draft(source), self._costs.expected_level(source)
            self._records.append(DrafterRecord(cost, level))
        texts, record = self._texts, self._records[source]
        if self._costs.without_draft(texts) is None and (self._costs.target.known or texts > 1):
            return 0  # measure a step without a draft, as the baseline
        payoff = record.payoff(texts)
        alone = texts / self._baseline(texts)
        tries = texts == 1 and not record.cost.known  # measuring it costs little
        surplus = self._surplus([record.first] * texts, record, rate=alone)
        row = self._draft_cost(record)[1] if self._costs.reads(source) else 0.0
        reading = alone * record.reading(unread, row)  # in tokens
        could_pay = tries or (surplus > 0 and (texts == 1 or reading <= _PAYBACK * surplus))
        limit = payoff.limit(DEEPEST, could_pay=could_pay, reading=reading / texts)
        if not limit or payoff.probing or tries:
            return limit
        gains = [record.first * (1 - _OVERLAP * prob) for prob in covered]
        rate = self._best(self._proposed).rate
        return limit if self._surplus(gains, record, rate=rate) > 0 else 0

    def calibrate(self, source: int, draft: Draft) -> list[float]:
        return self._records[source].calibrate(draft)

    def grow(
        self, source: int, drafts: Sequence[Draft], covered: Sequence[Mapping[int, float]]
    ) -> list[list[int]]:
        record = self._records[source]
        level, draft_row = self._draft_cost(record)
        rows = sum(len(draft.expanded) for draft in drafts)
        levels = max((max(draft.tree.depths, default=0) for draft in drafts), default=0)
        self._growing = levels * level + rows * draft_row
        proposed, gains = [], []
        for draft, before, of_text in zip(drafts, self._proposed, covered, strict=True):
            confidences = self.calibrate(source, draft)
            probs = {TEXT: 1.0, **dict(enumerate(path_probs(draft.parents, confidences)))}
            # The probability that the text gets to a node and what follows is not proposed yet.
            left = {node: max(p - _OVERLAP * of_text[node], 0.0) for node, p in probs.items()}
            given = zip(draft.parents, confidences, strict=True)
            proposed.append([*before, *(confidence * left[parent] for parent, confidence in given)])
            gains.append({node: record.first * left[node] for node in draft.open_nodes()})
        rate = self._best(proposed).rate
        return worth_growing(
            gains,
            rate=rate,
            level=level,
            row=draft_row + self._row(),
            widest=_WIDEST,
        )

    def propose(self, source: int, proposals: Sequence[Proposal]) -> list[Proposal]:
        self._merged = list(proposals)
        corrected = [self._disagreement.correct(proposal) for proposal in proposals]
        self._proposed = [_estimates(proposal) for proposal in corrected]
        self._drafting += self._growing or self._draft_cost(self._records[source])[0]
        self._growing = 0.0
        return corrected

    def trim(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        probs = [_estimates(proposal) for proposal in proposals]
        rows = self._best(probs).rows
        return [proposal.only(best_nodes(proposal, rows)) for proposal in proposals]

    def observe(self, outcome: Outcome) -> None:
        texts = outcome.texts
        records = [
            (record, record.payoff(texts), drafted)
            for record, drafted in zip(self._records, outcome.drafted, strict=False)
        ]
        for record, _, drafted in records:
            record.observe_visits(drafted)
        for proposal, tokens in zip(self._merged, outcome.emitted, strict=False):
            self._disagreement.observe(proposal, tokens)
        if not outcome.reads_prompt:
            self._costs.observe_target(texts, outcome.rows, outcome.total - outcome.drafting)
        for record, payoff, drafted in records:
            if drafted.read:
                record.observe_reading(drafted.read, drafted.seconds)
                payoff.observe_reading(drafted.seconds / self._baseline(texts))
            elif drafted.levels and not outcome.reads_prompt:
                payoff.observe(self._gain(drafted, outcome) / texts)
                if not payoff.probing:  # a probe also reads all tokens of the pause
                    record.cost.observe(drafted.levels, drafted.rows, drafted.seconds)

    def _gain(self, drafted: Drafted, outcome: Outcome) -> float:
        """Tokens that a drafter would have gained alone, less those that its time is worth.

        What several drafters propose counts for each of them. Whether a drafter adds enough to
        those before it is decided in each round, by what they cover.
        """
        row, texts = self._row(), outcome.texts
        seconds = drafted.seconds + drafted.nodes * row
        without = outcome.total - outcome.drafting - (outcome.rows - texts) * row
        return drafted.accepted - texts * seconds / max(without, self._baseline(texts))

    def _best(self, probs: Sequence[Sequence[float]]) -> Choice:
        seconds = self._baseline(self._texts) + self._drafting + self._growing
        return best_rows(probs, seconds=seconds, row=self._row(), most=4 * _WIDEST)

    def _surplus(self, gains: Sequence[float], record: DrafterRecord, *, rate: float) -> float:
        """Tokens that a first level gains, less those that its time is worth.

        Args:
            gains: expected tokens.
            record: of the drafter.
            rate: tokens per second without it.
        """
        level, draft_row = self._draft_cost(record)
        seconds = level + len(gains) * (draft_row + self._row())
        return sum(gains) - rate * seconds

    def _baseline(self, texts: int) -> float:
        """Seconds of a round without a draft."""
        target = self._costs.target
        return self._costs.without_draft(texts) or (target.base if target.known else 0.0) or 1.0

    def _draft_cost(self, record: DrafterRecord) -> tuple[float, float]:
        """Seconds for a level of drafting, and for a row in it."""
        if record.cost.known:
            return record.cost.base, record.cost.slope
        level = record.expected_level * self._baseline(self._texts)
        return level, self._PRIOR_ROW * level

    def _row(self) -> float:
        """Seconds for a row of the target's pass."""
        target = self._costs.target
        return target.slope if target.known else self._PRIOR_ROW * self._baseline(self._texts)


def _estimates(proposal: Proposal) -> Sequence[float]:
    return proposal.estimates or [1.0] * len(proposal.tree)
