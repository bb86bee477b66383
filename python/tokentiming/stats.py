"""What a generation did and where its time went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

STAGES = ("drafting", "transcoding", "aligning", "target", "verifying")


@dataclass
class Stats:
    """Counts and seconds of one generated sequence."""

    method: str
    exact: bool
    """Whether the emitted tokens have the target's own law."""
    tokens: int = 0
    """Tokens generated."""
    seconds: float = 0.0
    """Wall time, prompt included."""
    target_forwards: int = 0
    draft_forwards: int = 0
    drafted: int = 0
    """Tokens drafted, in the draft's vocabulary."""
    proposed: int = 0
    """Target tokens proposed."""
    accepted: int = 0
    """Proposed tokens accepted."""
    accepted_per_round: Counter[int] = field(default_factory=Counter)
    """Histogram: accepted tokens of a round -> rounds."""
    transfer_cases: Counter[str] = field(default_factory=Counter)
    """By which case of the transfer proposed tokens got their laws, for `tokentiming`: "within" a
    draft token, a "merge" of several, "inside" one, or, as the last resort, a "point mass"."""
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Seconds spent in each stage; the rest of ``seconds`` is bookkeeping."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Tokens generated per forward pass of the target."""
        return self.tokens / self.target_forwards if self.target_forwards else 0.0

    @property
    def acceptance_rate(self) -> float:
        """Share of the proposed target tokens that were accepted."""
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def point_mass_rate(self) -> float:
        """Share of the transferred tokens for which there was nothing to transfer."""
        transferred = self.transfer_cases.total()
        return self.transfer_cases["point mass"] / transferred if transferred else 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        start = perf_counter()
        try:
            yield
        finally:
            self.stage_seconds[name] += perf_counter() - start
