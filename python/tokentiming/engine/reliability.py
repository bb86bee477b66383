"""How often the tokens of a drafter are emitted, by its confidence in them."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

from tokentiming.drafters.draft import Visit


class Reliability:
    """Corrects confidences by what the target emitted so far.

    A confidence is multiplied by emitted over expected tokens, counted in buckets of confidence.
    The factor of a bucket with few observations is near that of all buckets together. The weight of
    old rounds decays exponentially.
    """

    _EDGES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.96)
    _MEMORY, _ROUND_MEMORY = 0.97, 0.9  # of a visit, and at least of a round
    _PRIOR = 18.0
    _BUCKET_PRIOR = 2.0

    def __init__(self) -> None:
        self._emitted = self._expected = self._PRIOR
        buckets = len(self._EDGES) + 1
        self._bucket_emitted = [0.0] * buckets
        self._bucket_expected = [0.0] * buckets

    def observe(self, visits: Sequence[Visit]) -> None:
        """Record which children of the visited nodes were emitted in a round."""
        if not visits:
            return
        children = [
            (bisect(self._EDGES, confidence), confidence, child == visit.emitted)
            for visit in visits
            for child, confidence in enumerate(visit.confidences)
        ]
        keep = max(self._MEMORY ** len(visits), self._ROUND_MEMORY)
        self._emitted *= keep
        self._expected *= keep
        for bucket in {bucket for bucket, _, _ in children}:
            self._bucket_emitted[bucket] *= keep
            self._bucket_expected[bucket] *= keep
        for visit in visits:
            self._emitted += visit.emitted is not None
            self._expected += min(sum(visit.confidences), 1.0)
        for bucket, confidence, emitted in children:
            self._bucket_emitted[bucket] += emitted
            self._bucket_expected[bucket] += confidence

    def calibrate(self, confidences: Sequence[float]) -> list[float]:
        """Probabilities that tokens of these confidences are emitted."""
        return [min(value * self._factor(bisect(self._EDGES, value)), 1.0) for value in confidences]

    def _factor(self, bucket: int) -> float:
        prior = self._BUCKET_PRIOR
        overall = self._emitted / max(self._expected, 1e-9)
        emitted = self._bucket_emitted[bucket] + prior * overall
        return emitted / (self._bucket_expected[bucket] + prior)
