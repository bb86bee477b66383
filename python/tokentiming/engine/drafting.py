"""The drafter in a batch: which texts it knows, and what happens when it fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from tokentiming.drafters import Candidates, Draft, Drafter, DraftRequest
from tokentiming.engine.budget import Budget
from tokentiming.engine.text import Text
from tokentiming.methods import BoundMethod
from tokentiming.noise import Place

logger = logging.getLogger(__name__)


class Drafting:
    """Asks a drafter for drafts of several texts. If it fails, the target continues alone.

    Args:
        drafter: the source of drafts; it starts without texts.
        method: chooses the draft's tokens.
        budget: decides how deep to draft and which nodes to grow.
        target_tokenizer: for the drafter, which converts prompts.

    Attributes:
        levels: passes of the draft in the last round.
    """

    def __init__(
        self, drafter: Drafter, method: BoundMethod, budget: Budget, target_tokenizer: Any
    ) -> None:
        self.levels = 0
        self._drafter = drafter
        self._method = method
        self._budget = budget
        self._target_tokenizer = target_tokenizer
        self._texts: list[Text] = []  # texts that the drafter knows, in its order

    @property
    def forwards(self) -> int:
        return self._drafter.forwards

    def begin(self, text: Text) -> None:
        """Start drafting for a text."""
        request = text.request
        try:
            self._drafter.begin(request.prompt, self._target_tokenizer, request.warpers)
            self._texts.append(text)
        except Exception as error:
            continue_without_draft([text], error)

    def end(self, text: Text) -> None:
        """Stop drafting for a text."""
        if text in self._texts:
            index = self._texts.index(text)
            drop(self._texts, index)
            try:
                self._drafter.drop(index)
            except Exception as error:
                self._stop(error)

    def drafts(self, texts: Sequence[Text]) -> list[Draft]:
        """A draft for each text; empty if drafting does not pay or is not possible."""
        self.levels = 0
        limit = self._budget.begin_round(len(texts)) if self._texts else 0
        candidates = self._budget.candidates
        requests = [
            text.draft_request(self._drafter.vocabulary, limit=limit, candidates=candidates)
            for text in self._texts
        ]
        made = {id(text): one.draft for text, one in zip(self._texts, requests, strict=True)}
        if limit and requests:
            self._propose(requests)
        return [made.get(id(text), Draft()) for text in texts]

    def _propose(self, requests: Sequence[DraftRequest]) -> None:
        """Let the drafter fill the drafts. After an error they keep the tokens drawn before it.

        These tokens are still verified: rejection sampling would be biased if a drawn token could
        decide whether it is proposed.
        """
        refusals: list[Exception] = []

        def choose(scores: torch.Tensor, places: Sequence[Place]) -> Candidates:
            return self._method.choose_draft(scores, places, self._budget.candidates)

        def grow(drafts: Sequence[Draft]) -> list[list[int]]:
            self.levels += 1
            try:
                return self._method.grow(drafts, self._budget.grow)
            except Exception as error:  # the user's settings caused it, not the draft
                refusals.append(error)
                raise

        failed: Exception | None = None
        try:
            returned: object = self._drafter.propose(requests, choose, grow)  # type: ignore[func-returns-value]
            if returned is not None:
                raise TypeError(
                    f"propose returned a {type(returned).__name__}; fill the drafts it is given"
                )
        except Exception as error:
            if refusals:
                raise
            failed = error
        for one in requests:
            try:
                one.draft.check(self._drafter.vocabulary)
            except ValueError as error:  # noqa: PERF203 - each draft keeps what is valid
                failed = failed or error
        if failed:
            self._stop(failed)

    def _stop(self, error: Exception) -> None:
        """Leave all running texts to the target; later texts are drafted for again."""
        continue_without_draft(self._texts, error)
        self._texts = []
        self.reset()

    def reset(self) -> None:
        """Have the drafter forget all texts."""
        with suppress(Exception):  # the target does not need it
            self._drafter.reset()


def continue_without_draft(texts: Sequence[Text], error: Exception) -> None:
    for text in texts:
        text.stats.draft_failure = failure(error)
    logger.warning(
        "generate: the draft failed and the target goes on alone (%s)",
        failure(error),
        exc_info=error if logger.isEnabledFor(logging.DEBUG) else None,
    )


def drop(items: list[Any], index: int) -> None:
    """Remove an item; the last one takes its index."""
    items[index] = items[-1]
    items.pop()


def failure(error: Exception) -> str:
    """The class and the message of an error."""
    with suppress(Exception):  # the message of a user's error may fail to be formatted
        return f"{type(error).__name__}: {error}"
    return type(error).__name__
