"""What a drafter's proposals have cost and gained so far."""

from __future__ import annotations

from tokentiming.drafters.draft import Draft
from tokentiming.engine.budget import Drafted
from tokentiming.engine.costs import LinearCost
from tokentiming.engine.reliability import Reliability


class DrafterRecord:
    """The costs of a drafter, how reliable it is, and whether it pays.

    Args:
        cost: seconds of its passes.
        expected_level: seconds of a level until it is measured, in passes of the target.
    """

    _DEPTHS = 3
    """Depths whose confidences are corrected apart; the last one stands for all deeper ones. The
    first bytes of a token say whether the deeper ones are right."""
    _PRIOR_FIRST, _PRIOR_VISITS, _MEMORY = 0.6, 30.0, 0.97

    def __init__(self, cost: LinearCost, expected_level: float) -> None:
        self.cost = cost
        self.expected_level = expected_level
        self._reliability = [Reliability() for _ in range(self._DEPTHS)]
        self._payoffs: dict[int, Payoff] = {}
        self._read_tokens = self._read_seconds = 0.0
        self.begin()

    def begin(self) -> None:
        """A new text begins."""
        self._visits = self._PRIOR_VISITS
        self._first = self._PRIOR_VISITS * self._PRIOR_FIRST
        for payoff in self._payoffs.values():
            payoff.begin()

    @property
    def first(self) -> float:
        """The probability that the likeliest child of a node is emitted, if the node is."""
        return self._first / self._visits

    def calibrate(self, draft: Draft) -> list[float]:
        """The probability that each node of a draft is emitted after its parent."""
        at = [self._place(depth - 1) for depth in draft.tree.depths]
        found: dict[int, float] = {}
        for place, reliability in enumerate(self._reliability):
            nodes = [node for node, other in enumerate(at) if other == place]
            values = reliability.calibrate([draft.confidences[node] for node in nodes])
            found.update(zip(nodes, values, strict=True))
        return [found[node] for node in range(len(draft))]

    def _place(self, depth: int) -> int:
        return min(depth, self._DEPTHS - 1)

    def payoff(self, texts: int) -> Payoff:
        """Whether it pays in batches of about this size."""
        return self._payoffs.setdefault(texts.bit_length(), Payoff(texts))

    def observe_reading(self, tokens: int, seconds: float) -> None:
        """Record how long it took to read texts of so many tokens."""
        self._read_tokens = self._read_tokens * self._MEMORY + tokens
        self._read_seconds = self._read_seconds * self._MEMORY + seconds

    def reading(self, tokens: int, row: float) -> float:
        """Seconds to read texts of so many tokens; ``row`` is the time of one until it is known."""
        if not self._read_tokens:
            return tokens * row
        return tokens * self._read_seconds / self._read_tokens

    def observe_visits(self, drafted: Drafted) -> None:
        """Record which of its tokens were emitted."""
        for depth, reliability in enumerate(self._reliability):
            reliability.observe([v for v in drafted.visits if self._place(v.depth) == depth])
        for visit in drafted.visits:
            self._visits = self._visits * self._MEMORY + 1
            self._first = self._first * self._MEMORY + (visit.emitted == 0)


class Payoff:
    """Decides whether a drafter drafts in a round, by the tokens that it gains.

    Its cost is expressed in tokens: those that a text would have gained in that time without it. A
    drafter that gains less than it costs pauses, and a probe follows each pause. Pauses become
    longer with each probe that fails. A new text begins without a pause if the drafter has paid in
    the long run, in which the reading of prompts counts too. If it has not, pauses last a hundred
    times as long as what the probe lost.

    A batch of several texts starts with a long pause if a level is not expected to pay: the first
    probe would read all prompts.

    Args:
        texts: in the batch.
    """

    PROBE = 3
    """Levels of a probe."""
    _MEMORY, _LONG_MEMORY = 0.9, 0.98
    _PRIOR, _LONG_PRIOR = 1.8, 6.0  # tokens
    _FIRST_PAUSE, _LONGEST_PAUSE = 8, 64
    _PROBE_SHARE = 0.01
    _READING = 3.0
    """What reading a prompt counts at most, since a single long prompt says little of others."""

    def __init__(self, texts: int) -> None:
        self._long_gain = self._LONG_PRIOR
        self._pauses = 0
        untried = self._FIRST_PAUSE if texts == 1 else round(self._READING / self._PROBE_SHARE)
        self._first_pause = untried
        self.begin()

    def begin(self) -> None:
        """A new text begins."""
        if self._long_gain >= 0:
            self._gain = self._PRIOR
            self._pause = self._first_pause
            self._pauses = 0
        self.probing = False

    def limit(self, deepest: int, *, could_pay: bool, reading: float) -> int:
        """The deepest level to draft in the next round.

        Args:
            deepest: the result for a drafter that pays.
            could_pay: whether a level is expected to pay.
            reading: rounds that it takes to read texts before the next draft.
        """
        self.probing = self._pauses == 1
        if self._pauses:
            self._pauses -= 1
            return self.PROBE if self.probing else 0
        if self._gain >= 0 and could_pay:
            self._pause = self._first_pause
            return deepest
        lost = min(reading, self._READING)
        self._pauses = max(self._pause, round(lost / self._PROBE_SHARE))
        self._pause = min(2 * self._pause, self._LONGEST_PAUSE)
        return 0

    def observe(self, gain: float) -> None:
        """Record what a round with its drafts gained, in tokens of a text."""
        if not self.probing:
            gain = max(gain, -1.0)  # an interrupted pass says little
        self._gain = self._gain * self._MEMORY + gain
        self._long_gain = self._long_gain * self._LONG_MEMORY + gain
        self._observe_trial(-gain)

    def observe_reading(self, cost: float) -> None:
        """Record what it cost to read prompts, in tokens of a text."""
        self._long_gain -= min(cost, self._READING)
        self._observe_trial(cost)

    def _observe_trial(self, lost: float) -> None:
        self._first_pause = self._FIRST_PAUSE
        if self.probing and self._long_gain < 0:
            self._pause = max(self._pause, round(lost / self._PROBE_SHARE))
