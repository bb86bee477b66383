"""What every method does: choose the draft's tokens, and judge them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

import torch

from tokentiming.noise import Noise, State
from tokentiming.vocabulary import Vocabulary


class TargetRows(Protocol):
    """The target's scores along a proposal of M tokens, worked out when asked for."""

    def scores(self, j: int) -> torch.Tensor:
        """Float32 scores ``[V]`` after ``j`` proposed tokens, 0 to M, logits processors applied."""

    def state(self, j: int) -> State:
        """State after ``j`` proposed tokens."""


class Choice(NamedTuple):
    """A drafted token."""

    token: int
    confidence: float
    """Guessed odds that the target emits it too; decides lengths, never laws."""


class Method(ABC):
    """A way to choose tokens on both sides, for one sequence.

    Args:
        noise: the sequence's random stream.
        draft: the drafter's vocabulary, if there is a drafter.
        target: the target's vocabulary.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    """Whether the emitted tokens have the target's own law."""

    def __init__(self, noise: Noise, draft: Vocabulary | None, target: Vocabulary) -> None:
        self.noise = noise
        self.draft = draft
        self.target = target

    @abstractmethod
    def choose_draft(self, scores: torch.Tensor, state: State) -> Choice:
        """What the draft emits at a state, given its scores ``[V_d]``."""

    @abstractmethod
    def verify(self, rows: TargetRows, proposal: Sequence[int]) -> list[int]:
        """The accepted beginning of the proposal, and one more token of the target's own."""


class Matching(Method):
    """Methods in which the target picks its own token and a proposal is accepted if it is that.

    Whatever was proposed, the emitted tokens are the target's, so any drafter is lossless.
    """

    @abstractmethod
    def choose_target(self, scores: torch.Tensor, state: State) -> int:
        """The id that the target emits at a state, given its scores ``[V_t]``."""

    def verify(self, rows: TargetRows, proposal: Sequence[int]) -> list[int]:
        emitted: list[int] = []
        for j in range(len(proposal) + 1):
            emitted.append(self.choose_target(rows.scores(j), rows.state(j)))
            if emitted[-1] != (proposal[j] if j < len(proposal) else None):
                break
        return emitted


def probability(scores: torch.Tensor, token: int) -> float:
    """The token's share of the softmax of scores ``[V]``."""
    return float(torch.exp(scores[token] - torch.logsumexp(scores, 0)))
