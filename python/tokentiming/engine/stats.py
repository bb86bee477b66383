"""Counts and times of a generation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

STAGES = ("drafting", "transcoding", "aligning", "target", "verifying")


@dataclass
class Stats:
    """Counts and seconds of one generated sequence.

    In a batch a round has one pass of the target, and of a draft model, for all running texts. The
    seconds and forward passes of a text are then those of the batch while the text ran, and their
    sum over texts counts them several times. All other counts are the text's own. The batch as a
    whole generates the sum of ``tokens`` in the time of the call.
    """

    method: str
    exact: bool
    """Whether the emitted tokens have the target's own distribution."""
    tokens: int = 0
    """Tokens generated."""
    seconds: float = 0.0
    """Wall time from the start of the text to its end, prompt included; shared in a batch."""
    target_forwards: int = 0
    """Forward passes of the target in that time, those that read prompts included; in a batch the
    prompts of other texts too."""
    draft_forwards: int = 0
    """The same for the drafters."""
    drafted: int = 0
    """Tokens drafted, in the draft's vocabulary."""
    proposed: int = 0
    """Target tokens proposed."""
    accepted: int = 0
    """Proposed tokens accepted."""
    accepted_per_round: dict[int, int] = field(default_factory=dict)
    """Histogram: accepted tokens of a round -> rounds."""
    accepted_from: dict[int, int] = field(default_factory=dict)
    """Accepted tokens by the drafter that proposed them, numbered in the order of the drafters. A
    token that several proposed counts for the first of them."""
    transfer_cases: dict[str, int] = field(default_factory=dict)
    """Proposed tokens by the case of the transfer that gave their distributions, for `tokentiming`:
    "within" a draft token, a "merge" of several, "inside" one, or a "point mass" if none applies.
    """
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Seconds spent in each stage, shared in a batch; the rest of ``seconds`` is bookkeeping."""
    finish_reason: str | None = None
    """Why the text ended: "eos", "stop_string", "length", "time" (``max_time``), or "criterion" (a
    stopping criterion of the user's own). None if an error or interruption came before its end."""
    draft_failure: str | None = None
    """The error of the draft, after which the target continued alone; None if there was none."""

    @property
    def rounds(self) -> int:
        """Forward passes of the target that generated tokens of this text."""
        return sum(self.accepted_per_round.values())

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Tokens generated per round. A pass that only reads a prompt is not a round."""
        return self.tokens / self.rounds if self.rounds else 0.0

    @property
    def acceptance_rate(self) -> float | None:
        """Share of the proposed target tokens that were accepted; None if none was proposed."""
        return self.accepted / self.proposed if self.proposed else None

    @property
    def point_mass_rate(self) -> float | None:
        """Share of the transferred tokens that got a point mass; None if none was transferred."""
        transferred = sum(self.transfer_cases.values())
        return self.transfer_cases.get("point mass", 0) / transferred if transferred else None

    def record_round(self, drafters: Sequence[int], transfer_cases: Iterable[str]) -> None:
        """Count a round by the drafter of each accepted token, and its cases of the transfer."""
        accepted = len(drafters)
        self.accepted += accepted
        for drafter in drafters:
            self.accepted_from[drafter] = self.accepted_from.get(drafter, 0) + 1
        self.accepted_per_round[accepted] = self.accepted_per_round.get(accepted, 0) + 1
        for case in transfer_cases:
            self.transfer_cases[case] = self.transfer_cases.get(case, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """All fields and rates as plain Python values, ready for ``json.dumps``."""
        rates = ("tokens_per_second", "tokens_per_forward", "acceptance_rate", "point_mass_rate")
        return asdict(self) | {name: getattr(self, name) for name in ("rounds", *rates)}

    def begin(self, target_forwards: int, draft_forwards: int) -> None:
        """Start the clock, and count forward passes from here."""
        self._begun = perf_counter(), target_forwards, draft_forwards

    def end(self, target_forwards: int, draft_forwards: int) -> None:
        """Stop the clock, and count the forward passes since ``begin``."""
        start, target, draft = self._begun
        self.seconds = perf_counter() - start
        self.target_forwards = target_forwards - target
        self.draft_forwards = draft_forwards - draft

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        start = perf_counter()
        try:
            yield
        finally:
            self.stage_seconds[name] += perf_counter() - start
