"""What every method does: choose the draft's tokens, propose them to the target, judge them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch

from tokentiming import transcode
from tokentiming.drafters.base import Choice, Choose, Draft, WantsMore
from tokentiming.noise import Noise, State
from tokentiming.vocabulary import Vocabulary

Ask = Callable[[int, Choose, WantsMore], Draft]
"""Has the drafter draft at most so many tokens from where the text ends."""


class TargetRows(Protocol):
    """The target's scores along a proposal of M tokens, worked out when asked for."""

    def scores(self, j: int) -> torch.Tensor:
        """Float scores ``[V]`` after ``j`` proposed tokens, 0 to M, logits processors applied."""

    def state(self, j: int) -> State:
        """State after ``j`` proposed tokens."""


@dataclass
class Proposal:
    """What is put to the target, in its own tokens, and by which law it was drawn."""

    ids: list[int] = field(default_factory=list)
    missed: bool = False
    """Whether after them the draft drew what has no token here. That is a rejection by ``laws``."""
    laws: torch.Tensor | None = None
    """The law of each of them, ``[M, V]``, the missed one's too; it may sum to less than 1. None if
    each was proposed with certainty, or the method has no use for laws."""
    cases: list[str] = field(default_factory=list)
    """By which case of the transfer each law came about, for methods that tell."""

    def __len__(self) -> int:
        return len(self.ids) + self.missed

    def cut(self, length: int) -> Proposal:
        """The first positions, whatever was drawn there."""
        return Proposal(
            self.ids[:length],
            self.missed and len(self) <= length,
            None if self.laws is None else self.laws[:length],
            self.cases[:length],
        )


class Method(ABC):
    """A way to draft and a rule to verify. It serves one sequence at a time."""

    name: ClassVar[str]

    @property
    def exact(self) -> bool:
        """Whether the emitted tokens have the target's own law."""
        return True

    def begin(self, noise: Noise, draft: Vocabulary | None, target: Vocabulary) -> None:
        """Start on a new sequence.

        Args:
            noise: the sequence's random stream.
            draft: the drafter's vocabulary, if there is a drafter.
            target: the target's vocabulary.
        """
        self.noise = noise
        self.draft_vocabulary = draft
        self.target_vocabulary = target

    @abstractmethod
    def choose_draft(self, scores: torch.Tensor, state: State) -> Choice | None:
        """What the draft emits at a state, given its scores ``[V_d]``; None for nothing."""

    def draft(self, ask: Ask, limit: int, wants_more: WantsMore) -> Draft:
        """Have up to ``limit`` tokens drafted."""
        return ask(limit, self.choose_draft, wants_more)

    def transcode(self, draft: Draft) -> Proposal:
        """The draft in the target's tokens: its bytes encoded anew."""
        assert self.draft_vocabulary is not None
        return Proposal(
            transcode.proxies(
                draft.ids, draft.special, self.draft_vocabulary, self.target_vocabulary
            )
        )

    def transfer(self, draft: Draft, proposal: Proposal) -> Proposal:
        """The proposal with the laws that its tokens were drawn from, where the rule needs them."""
        return proposal

    @abstractmethod
    def verify(self, rows: TargetRows, proposal: Proposal) -> list[int]:
        """The accepted beginning of the proposal, and one more token of the target's own."""


class Matching(Method):
    """Methods in which the target picks its own token and a proposal is accepted if it is that.

    Whatever was proposed, the emitted tokens are the target's, so any drafter is lossless.
    """

    @abstractmethod
    def choose_target(self, scores: torch.Tensor, state: State) -> int:
        """The id that the target emits at a state, given its scores ``[V_t]``."""

    def verify(self, rows: TargetRows, proposal: Proposal) -> list[int]:
        emitted: list[int] = []
        for j in range(len(proposal.ids) + 1):
            emitted.append(self.choose_target(rows.scores(j), rows.state(j)))
            if emitted[-1] != (proposal.ids[j] if j < len(proposal.ids) else None):
                break
        return emitted


def probability(scores: torch.Tensor, token: int) -> float:
    """The token's share of the softmax of scores ``[V]``."""
    return float(torch.exp(scores[token] - torch.logsumexp(scores, 0)))
