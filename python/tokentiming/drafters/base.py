"""What every drafter does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from tokentiming.noise import State
from tokentiming.prompts import Prompt
from tokentiming.vocabulary import Vocabulary


class Choice(NamedTuple):
    """A drafted token."""

    token: int
    confidence: float
    """Guessed odds that the target emits it too; decides lengths, never laws."""
    law: torch.Tensor | None = None
    """The draft's law at its position, float ``[V]``, for rules that judge the token by it."""


Choose = Callable[[torch.Tensor, State], "Choice | None"]
"""Picks the id emitted at a state, given float scores ``[V]``; None ends the draft before it."""

WantsMore = Callable[[Sequence[float]], bool]
"""Whether to go on, given the confidences of the tokens drafted so far."""


@dataclass
class Draft:
    """A stretch of text guessed by a drafter, in its own tokens."""

    ids: list[int] = field(default_factory=list)
    """Drafted ids, none of them special."""
    confidences: list[float] = field(default_factory=list)
    """How sure each of them is, from 0 to 1."""
    special: int | None = None
    """The special token drawn after them, an end of turn as a rule, which ended the draft."""
    laws: list[torch.Tensor] = field(default_factory=list)
    """The laws of ``drawn``, one by one; none of them if the method keeps none, or the source of
    the guess has none."""

    @property
    def drawn(self) -> list[int]:
        """All drawn ids, the special one too."""
        return self.ids if self.special is None else [*self.ids, self.special]

    def take(self, choice: Choice | None, special_ids: Collection[int]) -> bool:
        """Append a choice, if there is one; returns whether the draft can go on after it."""
        if choice is None:
            return False
        if choice.law is not None:
            self.laws.append(choice.law)
        if choice.token in special_ids:
            self.special = choice.token
            return False
        self.ids.append(choice.token)
        self.confidences.append(choice.confidence)
        return True


class Drafter(Protocol):
    """A source of proposals. It knows the text so far, not how its guesses are judged."""

    vocabulary: Vocabulary

    @property
    def forwards(self) -> int:
        """Forward passes so far."""

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        """Start on a new prompt; ``warpers`` shape scores ``[1, V]`` as the target's are shaped."""

    def propose(
        self, text: bytes, state: State, limit: int, choose: Choose, wants_more: WantsMore
    ) -> Draft:
        """Guess what follows ``text``, all bytes generated so far.

        A drafter may stop before ``limit``, for a reason that was known before it drew the token
        at which it stops.

        Args:
            text: may end inside a UTF-8 character.
            state: the state at the end of ``text``.
            limit: most tokens to draft, at least 1.
            choose: picks each token.
            wants_more: asked after each token but the last possible one.
        """
