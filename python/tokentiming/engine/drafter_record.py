"""What a drafter's proposals have cost and gained so far."""

from __future__ import annotations

from tokentiming.engine.budget import Drafted
from tokentiming.engine.costs import LinearCost
from tokentiming.engine.reliability import Reliability


class DrafterRecord:
    """Decides whether a drafter drafts in a round, by the tokens that it gained.

    What it cost is expressed in tokens: those that the round would have committed in that time
    without it. A drafter that gains less than it costs pauses. A probe follows each pause, and the
    pause doubles after each probe that fails. A new call of ``generate`` begins without a pause,
    unless the drafter has not paid over many calls.

    Args:
        cost: seconds of its passes.

    Attributes:
        reliability: of its confidences.
    """

    PROBE = 3
    """Levels of a probe."""
    _MEMORY, _LONG_MEMORY = 0.9, 0.98
    _PRIOR, _LONG_PRIOR = 1.8, 6.0  # tokens
    _FIRST_PAUSE, _LONGEST_PAUSE = 8, 64
    _PRIOR_FIRST, _PRIOR_VISITS, _VISIT_MEMORY = 0.6, 30.0, 0.97

    def __init__(self, cost: LinearCost) -> None:
        self.cost = cost
        self.reliability = Reliability()
        self._long_gain = self._LONG_PRIOR
        self._pauses = 0
        self.begin()

    def begin(self) -> None:
        """A new call begins."""
        self._visits = self._PRIOR_VISITS
        self._first = self._PRIOR_VISITS * self._PRIOR_FIRST
        if self._long_gain >= 0 or not self._pauses:
            self._gain = self._PRIOR
            self._pause = self._FIRST_PAUSE
            self._pauses = 0
        self.probing = False

    @property
    def first(self) -> float:
        """The probability that the likeliest child of a node is emitted, if the node is."""
        return self._first / self._visits

    def limit(self, deepest: int, *, could_pay: bool) -> int:
        """The deepest level to draft in the next round."""
        self.probing = self._pauses == 1
        if self._pauses:
            self._pauses -= 1
            return self.PROBE if self.probing else 0
        if self._gain >= 0 and could_pay:
            self._pause = self._FIRST_PAUSE
            return deepest
        self._pauses = self._pause
        self._pause = min(2 * self._pause, self._LONGEST_PAUSE)
        return 0

    def observe_visits(self, drafted: Drafted) -> None:
        """Record which of its tokens were emitted."""
        self.reliability.observe(drafted.visits)
        for visit in drafted.visits:
            self._visits = self._visits * self._VISIT_MEMORY + 1
            self._first = self._first * self._VISIT_MEMORY + (visit.emitted == 0)

    def observe_cost(self, drafted: Drafted) -> None:
        """Record the seconds of its passes, unless they also read the tokens of a pause."""
        if drafted.levels and not self.probing:
            self.cost.observe(drafted.levels, drafted.rows, drafted.seconds)

    def observe_gain(self, gain: float) -> None:
        """Record the tokens of a text that a round with its drafts gained, less their cost."""
        self._gain = self._gain * self._MEMORY + gain
        self._long_gain = self._long_gain * self._LONG_MEMORY + gain
