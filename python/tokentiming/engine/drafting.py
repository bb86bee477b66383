"""A drafter in a batch: which texts it knows, and what happens when it fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch

from tokentiming.drafters import Candidates, Draft, Drafter, DraftRequest
from tokentiming.drafters.base import Learner
from tokentiming.engine.budget import Budget, Drafted
from tokentiming.engine.covered import Covered
from tokentiming.engine.text import Text
from tokentiming.methods import BoundMethod, Proposal
from tokentiming.noise import Place
from tokentiming.scalars import type_of

logger = logging.getLogger(__name__)


class Drafting:
    """Asks a drafter for proposals to several texts. If it fails, the others continue without it.

    Args:
        drafter: the source of drafts; it starts without texts.
        number: of the drafter, in the order in which they draft.
        method: between its vocabulary and the target's.
        budget: decides which nodes to grow.
        target_tokenizer: for the drafter, which converts prompts.

    Attributes:
        drafts: of the last round, one for each text; empty if there was none.
    """

    def __init__(
        self,
        drafter: Drafter,
        number: int,
        method: BoundMethod,
        budget: Budget,
        target_tokenizer: Any,
    ) -> None:
        self.number = number
        self.method = method
        self.drafts: list[Draft] = []
        self._drafter = drafter
        self._budget = budget
        self._target_tokenizer = target_tokenizer
        self._texts: list[Text] = []  # texts that the drafter knows, in its order
        self._unread: list[Text] = []  # texts that it has not drafted for yet
        self._read = 0
        self._levels = 0
        self._seconds = 0.0

    @property
    def forwards(self) -> int:
        return self._drafter.forwards

    @property
    def unread(self) -> int:
        """Number of tokens, the target's, in texts that were not drafted for yet."""
        return sum(len(text.ids) for text in self._unread)

    def begin(self, text: Text) -> None:
        """Start drafting for a text."""
        request = text.request
        try:
            self._drafter.begin(request.prompt, self._target_tokenizer, request.warpers)
            self._texts.append(text)
            self._unread.append(text)
        except Exception as error:
            continue_without_draft([text], error)

    def end(self, text: Text) -> None:
        """Stop drafting for a text."""
        self._unread = [other for other in self._unread if other is not text]
        if text in self._texts:
            index = self._texts.index(text)
            drop(self._texts, index)
            try:
                self._drafter.drop(index)
            except Exception as error:
                self._stop(error)

    def skip(self, texts: Sequence[Text]) -> None:
        """Draft nothing in this round."""
        self.drafts = [Draft() for _ in texts]
        self._levels, self._seconds, self._read = 0, 0.0, 0

    def draft(self, texts: Sequence[Text], limit: int, covered: Sequence[Covered]) -> None:
        """Draft at most ``limit`` levels for each text, given what is proposed already."""
        start = perf_counter()
        self._levels = 0
        self._read = self.unread
        vocabulary, candidates = self.method.draft_vocabulary, self._budget.candidates
        requests = [
            text.draft_request(vocabulary, limit=limit, candidates=candidates)
            for text in self._texts
        ]
        made = {id(text): one.draft for text, one in zip(self._texts, requests, strict=True)}
        self.drafts = [made.get(id(text), Draft()) for text in texts]
        if requests:
            self._propose(requests, covered)
            self._unread = []
        self._seconds = perf_counter() - start

    def transcode(self, texts: Sequence[Text]) -> list[Proposal]:
        """What was drafted, in the target's tokens."""
        calibrated = [
            replace(draft, confidences=self._budget.calibrate(self.number, draft))
            for draft in self.drafts
        ]
        return [
            self.method.transcode(draft, text.request.noise)
            for draft, text in zip(calibrated, texts, strict=True)
        ]

    def transfer(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The proposals with the distributions that the method uses."""
        return [
            self.method.transfer(draft, proposal)
            for draft, proposal in zip(self.drafts, proposals, strict=True)
        ]

    def learn(self, tokens: Sequence[Sequence[int]], logits: Sequence[torch.Tensor]) -> None:
        """Show a drafter that learns the target's logits ``[R, V]`` after the tokens of a text."""
        if not self._texts or not isinstance(self._drafter, Learner):  # no texts after an error
            return
        start = perf_counter()
        try:
            if logits[0].device.type == "cpu":  # to concatenate would cost more than the calls
                for of_text, rows in zip(tokens, logits, strict=True):
                    self._drafter.learn(of_text, rows)
            else:  # each call waits for the device
                self._drafter.learn(
                    [token for of_text in tokens for token in of_text], torch.cat(list(logits))
                )
        except Exception as error:
            self._stop(error)
        self._seconds += perf_counter() - start

    def drafted(self, proposals: Sequence[Proposal], emitted: Sequence[Sequence[int]]) -> Drafted:
        """What this drafter did in the last round, in which the target emitted these tokens."""
        drawn = any(draft.ids for draft in self.drafts)
        credits = [
            proposal.credit(self.number, tokens)
            for proposal, tokens in zip(proposals, emitted, strict=True)
        ]
        return Drafted(
            seconds=self._seconds,
            levels=max(self._levels, int(drawn)),  # a drafter that asks for no level made one
            rows=sum(len(draft.expanded) for draft in self.drafts),
            visits=[
                visit
                for draft, tokens in zip(self.drafts, emitted, strict=True)
                for visit in draft.visits(
                    self.method.target_vocabulary.decode(tokens), self.method.draft_vocabulary
                )
            ],
            nodes=sum(nodes for nodes, _ in credits),
            accepted=sum(accepted for _, accepted in credits),
            read=self._read,
        )

    def _propose(self, requests: Sequence[DraftRequest], covered: Sequence[Covered]) -> None:
        """Let the drafter fill the drafts. After an error they keep the tokens drawn before it.

        These tokens are still verified: rejection sampling would be biased if a drawn token could
        decide whether it is proposed.
        """
        refusals: list[Exception] = []

        def choose(
            scores: torch.Tensor, places: Sequence[Place], tokens: torch.Tensor | None = None
        ) -> Candidates:
            count = self._budget.candidates
            if tokens is None:
                return self.method.choose_draft(scores, places, count)
            return self.method.choose_among(tokens, scores, places, count)

        def worth(drafts: Sequence[Draft]) -> list[list[int]]:
            # The drafter may know fewer texts than the budget, if it failed for some of them.
            vocabulary = self.method.draft_vocabulary
            after = [
                of_text.after_nodes(draft, vocabulary)
                for of_text, draft in zip(covered, self.drafts, strict=True)
            ]
            grown = self._budget.grow(self.number, self.drafts, after)
            of_draft = {id(one): nodes for one, nodes in zip(self.drafts, grown, strict=True)}
            return [of_draft[id(draft)] for draft in drafts]

        def grow(drafts: Sequence[Draft]) -> list[list[int]]:
            self._levels += 1
            _check_drafts(drafts, requests)
            try:
                return self.method.grow(drafts, worth)
            except Exception as error:  # the user's settings caused it, not the draft
                refusals.append(error)
                raise

        failed: Exception | None = None
        try:
            returned: object = self._drafter.propose(requests, choose, grow)  # type: ignore[func-returns-value]
            if returned is not None:
                raise TypeError(
                    f"propose returned {type_of(returned)}; fill the drafts it is given"
                )
        except Exception as error:
            if refusals:
                raise
            failed = error
        for one in requests:
            try:
                one.draft.check(self.method.draft_vocabulary)
            except ValueError as error:  # noqa: PERF203 - each draft keeps what is valid
                failed = failed or error
        if failed:
            self._stop(failed)

    def _stop(self, error: Exception) -> None:
        """Stop drafting for all running texts; later texts are drafted for again."""
        continue_without_draft(self._texts, error)
        self._texts, self._unread = [], []
        self.reset()

    def reset(self) -> None:
        """Have the drafter forget all texts."""
        with suppress(Exception):  # the target does not need it
            self._drafter.reset()


def _check_drafts(drafts: Sequence[Draft], requests: Sequence[DraftRequest]) -> None:
    """Refuse what a budget cannot grow. It is an error of the drafter."""
    if [id(draft) for draft in drafts] != [id(one.draft) for one in requests]:
        raise ValueError(
            "grow: drafts are not those of the requests; call grow([one.draft for one in requests])"
        )
    for one in requests:
        one.draft.check(one.vocabulary)


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
