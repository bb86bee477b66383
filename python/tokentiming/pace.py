"""How many tokens to draft in a round, and whether drafting pays at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

LONGEST = 12
"""Most tokens drafted in a round: past this, one rejection wastes too much."""


class Pace(Protocol):
    """Decides the length of each round's draft; the emitted law never depends on it."""

    def begin_round(self) -> int:
        """Most tokens to draft in the coming round; 0 leaves the draft model out of it."""

    def wants_more(self, confidences: Sequence[float]) -> bool:
        """Whether to draft another token after those drafted, given the draft's own odds."""

    def observe(
        self, confidences: Sequence[float], accepted: int, rows: int, drafting: float, total: float
    ) -> None:
        """Take in how a round went.

        Args:
            confidences: the draft's probability of each token it drafted.
            accepted: how many of them came out of the target too.
            rows: tokens in the target's forward pass.
            drafting: seconds spent on the draft.
            total: seconds of the whole round.
        """


class FixedPace:
    """The same number of drafted tokens in every round."""

    def __init__(self, length: int) -> None:
        if length < 0:
            raise ValueError(f"FixedPace: length is {length}; give 0 or more drafted tokens")
        self._length = length

    def begin_round(self) -> int:
        return self._length

    def wants_more(self, confidences: Sequence[float]) -> bool:
        return True

    def observe(
        self, confidences: Sequence[float], accepted: int, rows: int, drafting: float, total: float
    ) -> None:
        """Nothing to learn."""


class Costs:
    """Seconds of a drafted token and of a target pass over ``n`` rows, ``alone + (n - 1) * row``.

    Measured as the rounds go by, older ones forgotten; shared by all texts of a decoder.
    """

    _MEMORY = 0.9

    def __init__(self) -> None:
        self.drafted: float | None = None
        self.alone: float | None = None
        self.row = 0.0
        # Before both widths have been seen, rows are taken to be nearly free, as they are wherever
        # reading the weights is what costs.
        self._prior_row_share = 0.03

    def observe(self, drafted: int, rows: int, drafting: float, verifying: float) -> None:
        if drafted:
            self.drafted = self._blend(self.drafted, drafting / drafted)
        if rows == 1:
            self.alone = self._blend(self.alone, verifying)
        elif self.alone is None:
            self.alone = verifying / (1 + (rows - 1) * self._prior_row_share)
            self.row = self.alone * self._prior_row_share
        else:
            self.row = self._blend(self.row, max(verifying - self.alone, 0.0) / (rows - 1))

    def _blend(self, old: float | None, new: float) -> float:
        return new if old is None else self._MEMORY * old + (1 - self._MEMORY) * new


class AdaptivePace:
    """Drafts while the next token is likely enough to earn its time, and rests when none is.

    A draft of k tokens with survival odds s_1 >= s_2 >= ... yields 1 + sum(s_i) tokens for
    alone + k * (drafted + row) seconds. The best k is the last whose own yield per second is above
    that of the tokens before it. If no k beats the target alone, drafting pauses, and is probed
    again after a while, twice as long after each failed probe.
    """

    _PRIOR_ACCEPTANCE = 0.7
    _PRIOR_WEIGHT = 3.0
    _MEMORY = 0.93
    _FIRST_PAUSE, _LONGEST_PAUSE = 8, 64

    def __init__(self, costs: Costs | None = None) -> None:
        self._costs = costs or Costs()
        self._tried = self._PRIOR_WEIGHT
        self._passed = self._PRIOR_WEIGHT * self._PRIOR_ACCEPTANCE
        self._trusted = self._PRIOR_WEIGHT * self._PRIOR_ACCEPTANCE
        self._pause = self._FIRST_PAUSE
        self._resting = 0

    @property
    def acceptance(self) -> float:
        """Estimated odds that the next drafted token is accepted."""
        return self._passed / self._tried

    def begin_round(self) -> int:
        if self._resting:
            self._resting -= 1
            return 0 if self._resting else LONGEST
        if self._pays():
            self._pause = self._FIRST_PAUSE
            return LONGEST
        self._resting = self._pause
        self._pause = min(2 * self._pause, self._LONGEST_PAUSE)
        return 0

    def wants_more(self, confidences: Sequence[float]) -> bool:
        tokens, survival = 1.0, 1.0
        for confidence in confidences:
            survival *= self._odds(confidence)
            tokens += survival
        step, alone = self._times()
        spent = alone + len(confidences) * step
        return survival * self.acceptance * spent > tokens * step

    def observe(
        self, confidences: Sequence[float], accepted: int, rows: int, drafting: float, total: float
    ) -> None:
        self._costs.observe(len(confidences), rows, drafting, total - drafting)
        for i, confidence in enumerate(confidences[: accepted + 1]):
            self._tried = self._tried * self._MEMORY + 1
            self._passed = self._passed * self._MEMORY + (i < accepted)
            self._trusted = self._trusted * self._MEMORY + confidence

    def _odds(self, confidence: float) -> float:
        """The draft's confidence, corrected by how far it has been right so far."""
        return min(confidence * self._passed / max(self._trusted, 1e-9), 1.0)

    def _times(self) -> tuple[float, float]:
        """Seconds a drafted token adds, and seconds of a round without any."""
        costs = self._costs
        if costs.drafted is None or costs.alone is None:
            return 0.3, 1.0
        return costs.drafted + costs.row, costs.alone

    def _pays(self) -> bool:
        step, alone = self._times()
        return self.acceptance * alone > step
