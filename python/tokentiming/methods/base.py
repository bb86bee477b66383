"""What every method does: choose the draft's tokens, propose them to the target, verify them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from tokentiming.drafters.base import Choice, Choose, Draft, WantsMore
from tokentiming.noise import Noise
from tokentiming.tokens import transcode
from tokentiming.tokens.vocabulary import Vocabulary

Ask = Callable[[int, Choose, WantsMore], Draft]
"""Asks the drafter for at most a number of tokens after the text so far."""


class TargetRows(Protocol):
    """The target's scores along a proposal of M tokens, row ``j`` being after ``j`` of them.

    They are computed when they are asked for.
    """

    synchronizes: bool
    """Whether reading a result waits for a device. Then all rows are cheaper together than one by
    one; otherwise the rows after a rejection need not be computed."""
    emitted_only: bool
    """Whether a logits processor remembers its calls. Then each row must be asked for by itself,
    after the tokens before it have been emitted."""

    def scores(self, rows: range) -> torch.Tensor:
        """Float scores ``[R, V]`` of some of the rows 0 to M, logits processors applied."""

    def states(self, rows: range) -> torch.Tensor:
        """States ``[R, 2]`` of these rows."""


@dataclass(frozen=True)
class Proposal:
    """What is proposed to the target, in its own tokens, and the distributions they have."""

    ids: Sequence[int] = ()
    missed: bool = False
    """Whether the draft then drew a token without a counterpart here, which is a rejection by
    ``probs``.
    """
    probs: torch.Tensor | None = None
    """The distribution of each of them, ``[M, V]``, the missed one's too; it may sum to less than
    1. None if each was proposed with certainty, or if the method does not use distributions.
    """
    cases: torch.Tensor | None = None
    """The case of the transfer that gave each distribution, int8 ``[M]``; None if the method does
    not transfer.
    """

    def __len__(self) -> int:
        return len(self.ids) + self.missed

    def cut(self, length: int) -> Proposal:
        """The first positions, whatever was drawn there."""
        return Proposal(
            self.ids[:length],
            self.missed and len(self) <= length,
            None if self.probs is None else self.probs[:length],
            None if self.cases is None else self.cases[:length],
        )


class Method(ABC):
    """The settings of a method. It keeps no state, so any number of decoders may share one."""

    name: ClassVar[str]
    case_names: ClassVar[Sequence[str]] = ()
    """The names of the numbers in ``Proposal.cases``."""
    bound: ClassVar[type[BoundMethod]]
    """What ``bind`` returns."""

    @property
    def exact(self) -> bool:
        """Whether the emitted tokens have the target's own distribution for any two vocabularies.

        ``BoundMethod.exact`` tells it for the two in use.
        """
        return True

    def bind(
        self, noise: Noise, draft_vocabulary: Vocabulary, target_vocabulary: Vocabulary
    ) -> BoundMethod:
        """The method for one sequence.

        Args:
            noise: the sequence's random stream.
            draft_vocabulary: the drafter's, or the target's own if there is no drafter.
            target_vocabulary: the target's.
        """
        return self.bound(self, noise, draft_vocabulary, target_vocabulary)


class BoundMethod(ABC):
    """Drafts and verifies one sequence; made by ``Method.bind``."""

    exact = True
    """Whether the emitted tokens have the target's own distribution."""

    def __init__(
        self,
        method: Method,
        noise: Noise,
        draft_vocabulary: Vocabulary,
        target_vocabulary: Vocabulary,
    ) -> None:
        self.method = method
        self.noise = noise
        self.draft_vocabulary = draft_vocabulary
        self.target_vocabulary = target_vocabulary

    @abstractmethod
    def choose_draft(self, scores: torch.Tensor, states: torch.Tensor) -> Choice | None:
        """What the draft emits at states ``[1, 2]``, given its scores ``[1, V_d]``."""

    def draft(self, ask: Ask, limit: int, wants_more: WantsMore) -> Draft:
        """Have up to ``limit`` tokens drafted."""
        return ask(limit, self.choose_draft, wants_more)

    def transcode(self, draft: Draft) -> Proposal:
        """The draft in the target's tokens: its bytes, re-encoded."""
        return Proposal(
            transcode.proxies(
                draft.ids, draft.special, self.draft_vocabulary, self.target_vocabulary
            )
        )

    def transfer(self, draft: Draft, proposal: Proposal) -> Proposal:
        """The proposal with the distributions of its tokens, if the method uses them."""
        return proposal

    @abstractmethod
    def verify(self, rows: TargetRows, proposal: Proposal) -> Iterator[int]:
        """Emit the accepted prefix of the proposal, and one more token of the target's own.

        The text may end at any of them, and no more are asked for then.
        """


class Matching(BoundMethod):
    """Methods in which the target chooses its own token and accepts a proposal that is equal.

    Whatever was proposed, the emitted tokens are the target's, so any drafter is lossless.
    """

    @abstractmethod
    def choose_target(self, scores: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """The ids ``[R]`` that the target emits at states ``[R, 2]``, given scores ``[R, V_t]``."""

    def verify(self, rows: TargetRows, proposal: Proposal) -> Iterator[int]:
        size = len(proposal.ids) + 1
        step = size if rows.synchronizes and not rows.emitted_only else 1
        for start in range(0, size, step):
            asked = range(start, min(start + step, size))
            chosen = self.choose_target(rows.scores(asked), rows.states(asked)).tolist()
            for row, token in zip(asked, chosen, strict=True):
                yield valid_token(token)
                if row == len(proposal.ids) or proposal.ids[row] != token:
                    return


def valid_token(token: int) -> int:
    """Refuse what the core returns on a GPU where it would have raised on the CPU."""
    if token < 0:
        raise ValueError(
            "generate: the target's scores hold NaN or +inf, or none that is finite; check the "
            "model's dtype and the logits processors"
        )
    return token


def softmax_at(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The probabilities ``[R]`` of tokens ``[R]`` under the softmax of scores ``[R, V]``."""
    chosen = scores.gather(1, tokens[:, None])[:, 0]
    return torch.exp(chosen - torch.logsumexp(scores, 1))
