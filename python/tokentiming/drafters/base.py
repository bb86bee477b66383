"""The interface of drafters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from tokentiming.drafters.draft import Draft
from tokentiming.noise import Place
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.vocabulary import Vocabulary


class Candidates(NamedTuple):
    """Tokens that may follow each of R rows, the likeliest first, on the device of the scores."""

    ids: torch.Tensor
    """int64 ``[R, k]``; negative where there is no candidate."""
    confidences: torch.Tensor
    """Estimated probability that the target emits each of them, float ``[R, k]``. It affects which
    tokens are proposed, but not the emitted distribution."""
    distributions: torch.Tensor | None = None
    """The draft's distributions, float ``[R, V]``, for methods that use them."""

    def of_columns(self, tokens: torch.Tensor) -> Candidates:
        """The candidates if their ids are columns of these tokens, int64 ``[C]``."""
        ids = torch.where(self.ids < 0, self.ids, tokens[self.ids.clamp(min=0)])
        return self._replace(ids=ids)

    def rows(self) -> list[list[tuple[int, float]]]:
        """Ids and confidences of each row, copied from the device at once."""
        both = torch.stack(
            (self.ids.double(), self.confidences.double()), 2
        )  # float64 holds any id exactly
        return [[(int(token), value) for token, value in row] for row in both.tolist()]


class DraftRequest(NamedTuple):
    """A request to draft for one text."""

    text: bytes
    """All bytes generated so far; they may end inside a UTF-8 character."""
    place: Place
    """Where the next token is drawn."""
    draft: Draft
    """The draft to fill; it starts empty."""
    vocabulary: Vocabulary
    """The draft's."""
    target_ids: Sequence[int] = ()
    """Prompt and text in the target's tokens."""

    def place_after(self, node: int) -> Place:
        """Where the token that follows a node of the draft, or ``TEXT``, is drawn."""
        state = self.place.state
        for ancestor in self.draft.tree.path(node):
            state = state.after(self.vocabulary.token_bytes(self.draft.ids[ancestor]))
        return Place(self.place.noise, state)


class Choose(Protocol):
    """Picks candidates at R places."""

    def __call__(
        self, scores: torch.Tensor, places: Sequence[Place], tokens: torch.Tensor | None = None
    ) -> Candidates:
        """Pick candidates, given the draft's scores.

        Args:
            scores: float ``[R, V]``, or ``[R, C]`` of some tokens.
            places: where each row's token is drawn.
            tokens: the ids of the C columns, int64 ``[C]``, ascending. All others are impossible.
        """


Grow = Callable[[Sequence[Draft]], list[list[int]]]
"""Chooses the nodes of each draft to grow, given the drafts of all requests in their order; none at
all if drafting no longer pays."""


class Drafter(Protocol):
    """A source of proposals. It knows the texts so far, not how proposals are verified."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Of its drafts; None if they consist of the target's own tokens."""

    @property
    def forwards(self) -> int:
        """Forward passes so far."""

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        """Add a new text, with the last index.

        ``warpers`` process the draft's scores like the target's. They take ids, which they ignore,
        and scores ``[R, V]``.
        """

    def drop(self, index: int) -> None:
        """Forget a text; the last one takes its index."""

    def reset(self) -> None:
        """Forget all texts."""

    def propose(self, requests: Sequence[DraftRequest], choose: Choose, grow: Grow) -> None:
        """Fill the draft of each text whose ``draft.limit`` is above 0.

        A drafter may stop before the limit, but it must decide whether to propose a token before it
        draws the token. After an error, here or in ``begin``, the target continues alone.

        Args:
            requests: one for each text, in the order of ``begin`` and ``drop``.
            choose: picks the candidates after each row.
            grow: called after each level, with the drafts of all requests; chooses the nodes to
                grow.
        """


@runtime_checkable
class Learner(Protocol):
    """A drafter that learns from the rows that the target computes, rejected ones included."""

    def learn(self, tokens: Sequence[int], logits: torch.Tensor) -> None:
        """Observe what the target expects after each of R tokens.

        A call shows one text of a round, or all of them one after another.

        Args:
            tokens: target ids: the last token of a text, then those that were proposed.
            logits: ``[R, V]`` on the target's device, without processors.
        """
