"""The loop: draft, transcode, align, transfer, verify, commit. Only it knows all stages."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any

import torch

from tokentiming.drafters import Asked, Candidates, Draft, Drafter
from tokentiming.engine.budget import Budget, Outcome, Visit
from tokentiming.engine.request import Request, Round
from tokentiming.engine.stats import Stats
from tokentiming.engine.text import Text
from tokentiming.methods import BoundMethod, Method, Proposal
from tokentiming.noise import Place
from tokentiming.runners.base import ModelRunner
from tokentiming.tokens.tree import TEXT
from tokentiming.tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


class Decoding:
    """Generates texts, several at once; one that finishes leaves its place to the next.

    Args:
        target: runs the target model.
        vocabulary: the target's.
        drafter: None makes every round a plain step of the target.
        method: how to propose and verify.
        budget: what to propose.
        target_tokenizer: for drafters, which convert prompts.
        batch_size: most texts at once.
        name: of the method in the statistics; by default its own.
    """

    def __init__(
        self,
        target: ModelRunner,
        vocabulary: Vocabulary,
        drafter: Drafter | None,
        method: Method,
        budget: Budget,
        *,
        target_tokenizer: Any = None,
        batch_size: int = 1,
        name: str | None = None,
    ) -> None:
        self._target = target
        self._vocabulary = vocabulary
        self._drafter = drafter
        self._budget = budget
        self._target_tokenizer = target_tokenizer
        self._batch_size = batch_size
        self._failure: str | None = None
        self._method = self._bind(method)
        self._name = name or method.name
        self._running: list[Text] = []
        self._drafted: list[Text] = []  # texts that the drafter knows, in its order
        self._levels = 0

    def _bind(self, method: Method) -> BoundMethod:
        if self._drafter:
            try:
                return method.bind(self._drafter.vocabulary, self._vocabulary)
            except Exception as error:  # a failing draft costs speed and nothing else
                self._drafter = None
                self._failure = failure(error)
        return method.bind(self._vocabulary, self._vocabulary)

    def run(self, requests: Sequence[Request], finished: list[Text]) -> None:
        """Generate texts to their ends, and append each to ``finished`` when it is."""
        waiting = iter(requests)
        self._target.reset()
        if self._drafter:
            self._drafter.reset()
        while True:
            while len(self._running) < self._batch_size and (request := next(waiting, None)):
                self._begin(request)
            if not self._running:
                return
            self._round()
            ended = [i for i, text in enumerate(self._running) if text.finished]
            finished += [self._end(index) for index in reversed(ended)]

    def _begin(self, request: Request) -> None:
        stats = Stats(method=self._name, exact=self._method.exact)
        text = Text(request, self._vocabulary, stats)
        stats.begin(self._target.forwards, self._drafter.forwards if self._drafter else 0)
        stats.draft_failure = self._failure
        self._running.append(text)
        if not self._drafter:
            return
        with stats.stage("drafting"):
            try:
                self._drafter.begin(request.prompt, self._target_tokenizer, request.warpers)
                self._drafted.append(text)
            except Exception as error:  # a failing draft costs speed and nothing else
                self._continue_without_draft([text], error)

    def _end(self, index: int) -> Text:
        """Take a finished text out of the batch; the last one takes its index."""
        text = self._running[index]
        text.stats.end(self._target.forwards, self._drafter.forwards if self._drafter else 0)
        drop(self._running, index)
        self._target.drop(index)
        if self._drafter and text in self._drafted:
            at = self._drafted.index(text)
            drop(self._drafted, at)
            self._drafter.drop(at)
        return text

    def _round(self) -> None:
        start = perf_counter()
        drafts = self._draft()
        drafting = perf_counter() - start
        with self._stage("transcoding"):
            proposals = [self._transcode(text, drafts.get(id(text))) for text in self._running]
        with self._stage("aligning"):
            proposals = [
                self._method.transfer(drafts[id(text)], proposal).cut(text.remaining - 1)
                if id(text) in drafts
                else proposal
                for text, proposal in zip(self._running, proposals, strict=True)
            ]
            proposals = self._method.trim(proposals, self._budget.trim)
        fresh = any(not text.stats.tokens for text in self._running)
        with self._stage("target"):
            logits = self._target.read(
                [text.ids for text in self._running], [proposal.tree for proposal in proposals]
            )
        with self._stage("verifying"):
            rows = [
                text.rows(scores, proposal)
                for text, scores, proposal in zip(self._running, logits, proposals, strict=True)
            ]
            emitted = [
                text.commit(tokens)
                for text, tokens in zip(self._running, self._method.verify(rows), strict=True)
            ]
        if not fresh:  # a pass that reads a prompt too says nothing about later ones
            self._observe(drafts, proposals, emitted, drafting, perf_counter() - start)
        for text, proposal, tokens in zip(self._running, proposals, emitted, strict=True):
            self._record(text, proposal, tokens, drafts.get(id(text)))

    def _draft(self) -> dict[int, Draft]:
        """A draft for each text that has one, by the text's identity."""
        limit = self._budget.begin_round(len(self._running)) if self._drafted else 0
        self._levels = 0
        if not self._drafter or limit < 1:
            return {}
        asked = [text.asked(self._drafter, limit) for text in self._drafted]
        drafts = {id(text): one.draft for text, one in zip(self._drafted, asked, strict=True)}
        with self._stage("drafting"):
            self._propose(self._drafter, asked)
        return drafts

    def _propose(self, drafter: Drafter, asked: Sequence[Asked]) -> None:
        """Have drafts made. After an error they keep what was drawn.

        Tokens that were drawn are verified even then: whether they are proposed must not depend on
        what was drawn, or rejection sampling is biased.
        """

        def choose(scores: torch.Tensor, places: Sequence[Place]) -> Candidates:
            return self._method.choose_draft(scores, places, self._budget.candidates)

        refused: list[Exception] = []

        def grow(drafts: Sequence[Draft]) -> list[list[int]]:
            self._levels += 1
            try:
                return self._method.grow(drafts, self._budget.grow)
            except Exception as error:  # the user's settings, not the draft, are at fault
                refused.append(error)
                raise

        try:
            returned: object = drafter.propose(asked, choose, grow)  # type: ignore[func-returns-value]
            if returned is not None:
                raise TypeError(
                    f"propose returned a {type(returned).__name__}; fill the drafts it is given"
                )
            for one in asked:
                one.draft.check(drafter.vocabulary)
        except Exception as error:  # a failing draft costs speed and nothing else
            if refused:
                raise
            for one in asked:
                one.draft.keep_valid(drafter.vocabulary)
            self._continue_without_draft(self._drafted, error)

    def _continue_without_draft(self, texts: Sequence[Text], error: Exception) -> None:
        for text in texts:
            text.stats.draft_failure = failure(error)
        if texts is self._drafted:
            self._drafted = []
            with suppress(Exception):  # it has failed already
                self._drafter.reset()  # type: ignore[union-attr]
        logger.warning(
            "generate: the draft failed and the target goes on alone (%s)",
            failure(error),
            exc_info=error if logger.isEnabledFor(logging.DEBUG) else None,
        )

    def _transcode(self, text: Text, draft: Draft | None) -> Proposal:
        """The draft in the target's tokens; a draft may hold distributions and no token."""
        if draft is None or not (draft.ids or draft.distributions):
            return Proposal()
        return self._method.transcode(draft, text.request.noise)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage of all running texts."""
        start = perf_counter()
        try:
            yield
        finally:
            for text in self._running:
                text.stats.stage_seconds[name] += perf_counter() - start

    def _observe(
        self,
        drafts: dict[int, Draft],
        proposals: Sequence[Proposal],
        emitted: Sequence[Sequence[int]],
        drafting: float,
        total: float,
    ) -> None:
        texts = len(self._running)
        visits = [
            visit
            for text, tokens in zip(self._running, emitted, strict=True)
            if id(text) in drafts
            for visit in self._visits(drafts[id(text)], self._vocabulary.decode(tokens))
        ]
        self._budget.observe(
            Outcome(
                texts=texts,
                rows=texts * (1 + max(len(proposal.tree) for proposal in proposals)),
                tokens=sum(map(len, emitted)),
                drafting=drafting,
                total=total,
                levels=self._levels,
                draft_rows=sum(len(draft.expanded) for draft in drafts.values()),
                visits=visits,
            )
        )

    def _visits(self, draft: Draft, emitted: bytes) -> Iterator[Visit]:
        """The nodes along the emitted text whose children were drafted."""
        if not self._drafter:
            return
        spell = self._drafter.vocabulary.token_bytes
        path = draft.along(emitted, self._drafter.vocabulary)
        for at, node in enumerate([TEXT, *path]):
            children = [n for n, parent in enumerate(draft.parents) if parent == node]
            onward = path[at] if at < len(path) else None
            rest = emitted[sum(len(spell(draft.ids[n])) for n in path[:at]) :]
            # Whether a child that the text only begins will be emitted is not known yet.
            if children and (
                onward is not None
                or not any(spell(draft.ids[n]).startswith(rest) for n in children)
            ):
                found = None if onward is None else children.index(onward)
                yield Visit([draft.confidences[n] for n in children], found)

    def _record(
        self, text: Text, proposal: Proposal, tokens: list[int], draft: Draft | None
    ) -> None:
        accepted, node = 0, proposal.tree.child(TEXT, tokens[0])
        while node is not None:
            accepted += 1
            node = proposal.tree.child(node, tokens[accepted]) if accepted < len(tokens) else None
        cases = [] if proposal.cases is None else proposal.cases.tolist()
        names = self._method.method.case_names
        text.stats.drafted += 0 if draft is None else len(draft)
        text.stats.proposed += len(proposal)
        text.stats.record_round(accepted, (names[case] for case in cases))
        text.request.watch(Round(tokens, accepted, text.request.index))


def drop(items: list[Any], index: int) -> None:
    """Remove an item; the last one takes its index."""
    items[index] = items[-1]
    items.pop()


def failure(error: Exception) -> str:
    """The class of an error, and what it says."""
    with suppress(Exception):  # not every error can say what it is about
        return f"{type(error).__name__}: {error}"
    return type(error).__name__
