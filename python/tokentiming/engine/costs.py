"""The cost of forward passes, measured during generation."""

from __future__ import annotations

from collections.abc import Sequence


class LinearCost:
    """Seconds as ``base * passes + slope * rows``, fitted to measurements by least squares.

    The weight of old measurements decays exponentially. Until passes over different numbers of rows
    have been measured, the slope is a given share of the base.

    Args:
        share: initial ratio of the slope to the base.
    """

    _MEMORY = 0.9
    _MOST = 4.0
    """What a measurement counts at most, relative to its estimate. An interruption says little of
    other passes, as does a draft model that reads a part of its context again."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._passes2 = self._both = self._rows2 = 0.0  # sums of products
        self._passes_seconds = self._rows_seconds = 0.0
        self.known = False
        """Whether anything has been measured."""
        self.base = 0.0
        self.slope = 0.0

    def observe(self, passes: int, rows: int, seconds: float) -> None:
        """Record the seconds of some passes, and the number of rows in all of them."""
        if self.known:
            seconds = min(seconds, self._MOST * (self.base * passes + self.slope * rows))
        keep = self._MEMORY
        self._passes2 = keep * self._passes2 + passes * passes
        self._both = keep * self._both + passes * rows
        self._rows2 = keep * self._rows2 + rows * rows
        self._passes_seconds = keep * self._passes_seconds + passes * seconds
        self._rows_seconds = keep * self._rows_seconds + rows * seconds
        self.known = True
        self._solve()

    def _solve(self) -> None:
        # One more equation, slope = share * base, with a small weight.
        share = self._share
        a, b, d = self._passes2 + share * share, self._both - share, self._rows2 + 1.0
        determinant = a * d - b * b
        base = (d * self._passes_seconds - b * self._rows_seconds) / determinant
        slope = (a * self._rows_seconds - b * self._passes_seconds) / determinant
        if slope < 0:
            base, slope = self._passes_seconds / self._passes2, 0.0
        elif base < 0:
            base, slope = 0.0, self._rows_seconds / self._rows2
        self.base, self.slope = base, slope


class Costs:
    """Seconds of the passes of the target and of the drafters, for all texts of a decoder.

    Args:
        sizes: for each drafter the number of its weights, relative to the target's.
    """

    _MEMORY = 0.9
    _SHORTEST = 0.17

    def __init__(self, sizes: Sequence[float] = ()) -> None:
        self._sizes = list(sizes)
        self.target = LinearCost(share=0.03)
        self._drafts: dict[int, LinearCost] = {}
        self._without_draft: dict[int, float] = {}

    def draft(self, source: int) -> LinearCost:
        """Seconds of the passes of a drafter."""
        return self._drafts.setdefault(source, LinearCost(share=0.1))

    def expected_level(self, source: int) -> float:
        """Seconds of a level of a drafter that was not measured yet, in passes of the target.

        A pass takes as long as reading its weights, or longer if it is small.
        """
        return max([self._SHORTEST, *self._sizes[source : source + 1]])

    def reads(self, source: int) -> bool:
        """Whether a drafter is a model, which reads a text before it drafts for it."""
        return any(self._sizes[source : source + 1])

    def without_draft(self, texts: int) -> float | None:
        """Seconds of a target pass without a proposal; None if none was measured."""
        return self._without_draft.get(texts)

    def observe_target(self, texts: int, rows: int, seconds: float) -> None:
        """Record a pass of the target; without proposals it has one row for each text."""
        self.target.observe(1, rows, seconds)
        if rows == texts:
            old = self._without_draft.get(texts, seconds)
            self._without_draft[texts] = self._MEMORY * old + (1 - self._MEMORY) * seconds
