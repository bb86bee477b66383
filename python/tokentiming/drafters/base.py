"""What every drafter does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from tokentiming.noise import State
from tokentiming.prompts import Prompt
from tokentiming.vocabulary import Vocabulary

Choose = Callable[[torch.Tensor, State], tuple[int, float]]
"""Picks the id emitted at a state, given float32 scores ``[V]``, and says how sure that is."""

WantsMore = Callable[[Sequence[float]], bool]
"""Whether to go on, given the confidences of the tokens drafted so far."""


@dataclass
class Draft:
    """A stretch of text guessed by a drafter, in its own tokens."""

    ids: list[int] = field(default_factory=list)
    """Drafted ids, none of them special."""
    confidences: list[float] = field(default_factory=list)
    """How sure each of them is, from 0 to 1."""
    ends: bool = False
    """Whether the drafter ends its turn after them."""


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

        Args:
            text: may end inside a UTF-8 character.
            state: the state at the end of ``text``.
            limit: most tokens to draft, at least 1.
            choose: picks each token.
            wants_more: asked after each token but the last possible one.
        """
