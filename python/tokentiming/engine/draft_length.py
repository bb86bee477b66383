"""How many tokens to draft in a round, and whether drafting pays at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

LONGEST = 12
"""Most tokens drafted in a round; beyond it one rejection wastes too many."""


@dataclass(frozen=True)
class Outcome:
    """How a round went."""

    confidences: Sequence[float]
    """Estimated probability that each drafted token is accepted."""
    kept: int
    """How many of them lie wholly inside the accepted text."""
    tokens: int
    """Target tokens committed."""
    rows: int
    """Tokens in the target's forward pass."""
    drafting: float
    """Seconds spent on the draft."""
    total: float
    """Seconds of the whole round."""


class DraftLength(Protocol):
    """Decides the length of each draft; the emitted distribution does not depend on it."""

    def begin_round(self) -> int:
        """Most tokens to draft in the next round; 0 for no draft."""

    def wants_more(self, confidences: Sequence[float]) -> bool:
        """Whether to draft another token, given the confidences of those drafted."""

    def length_ahead(self) -> int:
        """Tokens to draft, at least 1, if none is read before all are drafted."""

    def observe(self, outcome: Outcome) -> None:
        """Record a round."""


class FixedDraftLength:
    """The same number of drafted tokens in every round."""

    def __init__(self, length: int) -> None:
        if length < 0:
            raise ValueError(f"FixedDraftLength: length is {length}; give 0 or more drafted tokens")
        self._length = length

    def begin_round(self) -> int:
        return self._length

    def wants_more(self, confidences: Sequence[float]) -> bool:
        return True

    def length_ahead(self) -> int:
        return max(self._length, 1)

    def observe(self, outcome: Outcome) -> None:
        """The length does not adapt."""


class Costs:
    """Seconds of a drafted token and of a target pass over ``n`` rows, ``alone + (n - 1) * row``.

    Measured by exponential averages over rounds, and shared by all texts of a decoder.
    """

    _MEMORY = 0.9

    def __init__(self) -> None:
        self.drafted: float | None = None
        self.alone: float | None = None
        self._extra_rows = 0.0
        self._extra_seconds = 0.0

    @property
    def row(self) -> float:
        """Slope of the pass, by least squares through the pass over one row."""
        return self._extra_seconds / self._extra_rows if self._extra_rows else 0.0

    def observe(self, drafted: int, rows: int, drafting: float, verifying: float) -> None:
        """Record a round: tokens drafted, rows verified, and the seconds of both."""
        if drafted:
            self.drafted = self._blend(self.drafted, drafting / drafted)
        if rows == 1:
            self.alone = self._blend(self.alone, verifying)
        elif self.alone is not None:
            surplus = max(verifying - self.alone, 0.0)
            self._extra_seconds = self._MEMORY * self._extra_seconds + surplus * (rows - 1)
            self._extra_rows = self._MEMORY * self._extra_rows + (rows - 1) ** 2

    def _blend(self, old: float | None, new: float) -> float:
        return new if old is None else self._MEMORY * old + (1 - self._MEMORY) * new


class AdaptiveDraftLength:
    """Drafts while the next token is expected to gain more than it costs.

    A draft of k tokens with survival probabilities s_1 >= s_2 >= ... yields 1 + sum(s_i) tokens in
    alone + k * (drafted + row) seconds. The best k is the last whose own yield per second is above
    that of the tokens before it. If rounds with a draft yield less than the target alone, drafting
    pauses; a probe follows after a while, twice as long after each probe that fails.
    """

    _PRIOR_ACCEPTANCE = 0.6
    _PRIOR_WEIGHT = 30.0
    _TOKEN_MEMORY = 0.97
    _PRIOR_STEP = 0.2  # seconds of a drafted token and its row, relative to a plain step
    _ROUND_MEMORY = 0.9
    _PRIOR_ROUNDS, _PRIOR_YIELD = 6.0, 1.3
    _FIRST_PAUSE, _LONGEST_PAUSE = 8, 64
    _PROBE = 3

    def __init__(self, costs: Costs | None = None) -> None:
        self._costs = costs or Costs()
        self._tried = self._PRIOR_WEIGHT
        self._passed = self._PRIOR_WEIGHT * self._PRIOR_ACCEPTANCE
        self._trusted = self._passed
        self._spent = self._PRIOR_ROUNDS
        self._earned = self._PRIOR_ROUNDS * self._PRIOR_YIELD
        self._rounds = 0
        self._pause = self._FIRST_PAUSE
        self._rounds_paused = 0
        self._probing = False

    def begin_round(self) -> int:
        self._rounds += 1
        if self._rounds == 2 and self._costs.alone is None:
            return 0  # measure a plain step, which a draft has to beat
        self._probing = self._rounds_paused == 1
        if self._rounds_paused:
            self._rounds_paused -= 1
            return self._PROBE if self._probing else 0
        if self._earned >= self._spent and self._could_pay():
            self._pause = self._FIRST_PAUSE
            return LONGEST
        self._rounds_paused = self._pause
        self._pause = min(2 * self._pause, self._LONGEST_PAUSE)
        return 0

    def wants_more(self, confidences: Sequence[float]) -> bool:
        tokens, survival = 1.0, 1.0
        for confidence in confidences:
            survival *= self._acceptance(confidence)
            tokens += survival
        step, alone = self._times()
        spent = alone + len(confidences) * step
        return survival * self._passed / self._tried * spent > tokens * step

    def length_ahead(self) -> int:
        usual = self._trusted / self._tried
        length = 1
        while length < LONGEST and self.wants_more([usual] * length):
            length += 1
        return length

    def observe(self, outcome: Outcome) -> None:
        # A probe's draft first reads all tokens of the pause.
        drafted = 0 if self._probing else len(outcome.confidences)
        verifying = outcome.total - outcome.drafting
        self._costs.observe(drafted, outcome.rows, outcome.drafting, verifying)
        for i, confidence in enumerate(outcome.confidences[: outcome.kept + 1]):
            self._tried = self._tried * self._TOKEN_MEMORY + 1
            self._passed = self._passed * self._TOKEN_MEMORY + (i < outcome.kept)
            self._trusted = self._trusted * self._TOKEN_MEMORY + confidence
        if outcome.confidences and self._costs.alone is not None:
            spent = outcome.total / self._costs.alone
            self._spent = self._spent * self._ROUND_MEMORY + spent
            self._earned = self._earned * self._ROUND_MEMORY + outcome.tokens

    def _could_pay(self) -> bool:
        """Whether one drafted token is expected to gain more than it costs."""
        step, alone = self._times()
        return self._passed / self._tried * alone > step

    def _acceptance(self, confidence: float) -> float:
        """The confidence, corrected by the acceptance observed so far."""
        return min(confidence * self._passed / max(self._trusted, 1e-9), 1.0)

    def _times(self) -> tuple[float, float]:
        """Seconds that a drafted token adds, and seconds of a plain step."""
        costs = self._costs
        if costs.drafted is None or costs.alone is None:
            return self._PRIOR_STEP, 1.0
        return costs.drafted + costs.row, costs.alone
