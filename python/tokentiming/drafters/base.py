"""What every drafter does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from tokentiming.noise import State
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.vocabulary import Vocabulary

NOTHING = -2
"""Stands for no token: the draft ends before it."""


class Choice(NamedTuple):
    """A drafted token, on the device of the scores."""

    token: torch.Tensor
    """Its id, int64 ``[1]``; below 0 there is none."""
    confidence: torch.Tensor
    """Estimated probability that the target emits it too, float ``[1]``. It affects draft lengths,
    never distributions."""
    distribution: torch.Tensor | None = None
    """The draft's distribution at its position, float ``[1, V]``, for methods that use it."""


Choose = Callable[[torch.Tensor, torch.Tensor], "Choice | None"]
"""Picks the token emitted at states ``[1, 2]``, given float scores ``[1, V]``; None ends the draft
before it. On a GPU it reads no value, since that would synchronize."""

WantsMore = Callable[[Sequence[float]], bool]
"""Whether to go on, given the confidences of the tokens drafted so far."""


@dataclass
class Draft:
    """A stretch of text guessed by a drafter, in its own tokens."""

    ids: list[int] = field(default_factory=list)
    """Drafted ids, none of them special."""
    confidences: list[float] = field(default_factory=list)
    """Estimated probability that each of them is accepted."""
    special: int | None = None
    """The special token drawn after them, an end of turn as a rule, which ended the draft."""
    probs: list[torch.Tensor] = field(default_factory=list)
    """The distributions of ``drawn``, each ``[1, V]``; none of them if the method keeps none, or
    the source of the guess has none.
    """

    @property
    def drawn(self) -> list[int]:
        """All drawn ids, the special one too."""
        return self.ids if self.special is None else [*self.ids, self.special]

    def check(self, vocabulary: Vocabulary) -> None:
        """Raise for tokens that the drafter's vocabulary does not have."""
        for token in self.drawn:
            if not hasattr(token, "__index__") or not 0 <= token < len(vocabulary):
                raise ValueError(
                    f"Draft.check: the draft holds {token!r}, which is none of its vocabulary's "
                    f"{len(vocabulary)} ids"
                )

    def take(self, choices: Sequence[Choice], special_ids: Collection[int]) -> bool:
        """Append choices up to one that ends the draft; returns whether it can go on.

        Their values are read by one copy from the device.
        """
        for choice, (token, confidence) in zip(choices, _values(choices), strict=True):
            if token == NOTHING:
                return False
            if token < 0:
                raise ValueError(
                    "Draft.take: the draft's scores hold NaN or +inf, or none that is finite"
                )
            if choice.distribution is not None:
                self.probs.append(choice.distribution)
            if token in special_ids:
                self.special = token
                return False
            self.ids.append(token)
            self.confidences.append(confidence)
        return True


def _values(choices: Sequence[Choice]) -> list[tuple[int, float]]:
    if not choices:
        return []
    tokens = torch.cat([choice.token for choice in choices])
    confidences = torch.cat([choice.confidence for choice in choices])
    together = torch.stack((tokens.double(), confidences.double()), 1)  # holds any id exactly
    return [(int(token), confidence) for token, confidence in together.tolist()]


class Drafter(Protocol):
    """A source of proposals. It knows the text so far, not how proposals are verified."""

    vocabulary: Vocabulary

    @property
    def synchronizes(self) -> bool:
        """Whether reading a token waits for a device. Then a draft is written to its end first."""

    @property
    def forwards(self) -> int:
        """Forward passes so far."""

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        """Start on a new prompt; ``warpers`` process scores ``[1, V]`` like the target's.

        They depend on the scores alone, and ignore the ids.
        """

    def propose(
        self, text: bytes, state: State, limit: int, choose: Choose, wants_more: WantsMore
    ) -> Draft:
        """Draft what follows ``text``, all bytes generated so far.

        A drafter may stop before ``limit``, for a reason that was known before it drew the token
        at which it stops. After an error, here or in ``begin``, the target continues alone.

        Args:
            text: may end inside a UTF-8 character.
            state: the state at the end of ``text``.
            limit: most tokens to draft, at least 1.
            choose: picks each token.
            wants_more: asked after each token but the last possible one, unless ``synchronizes``.
        """
