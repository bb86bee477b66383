"""The loop: draft, transcode, align, transfer, verify, commit. No other module knows all stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from tokentiming.drafters import Draft, Drafter
from tokentiming.engine.budget import Budget, Outcome
from tokentiming.engine.drafting import Drafting, continue_without_draft, drop, failure
from tokentiming.engine.request import Request, Round
from tokentiming.engine.stats import Stats
from tokentiming.engine.text import Text
from tokentiming.methods import BoundMethod, Method, Proposal
from tokentiming.runners.base import ModelRunner
from tokentiming.tokens.vocabulary import Vocabulary


class Decoding:
    """Generates several texts at once. When one ends, the next one joins the batch.

    Args:
        target: runs the target model.
        vocabulary: the target's.
        drafter: None makes every round a plain step of the target.
        method: how to propose and verify.
        budget: what to propose.
        target_tokenizer: for drafters, which convert prompts.
        batch_size: maximum number of texts at once.
        name: name of the method in the statistics; by default ``method.name``.
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
        self._budget = budget
        self._batch_size = batch_size
        self._name = name or method.name
        self._failure: str | None = None
        self._draft_vocabulary = vocabulary if drafter is None else drafter.vocabulary
        self._method = self._bind(method)
        self._drafting: Drafting | None = None
        if drafter and self._failure is None:
            self._drafting = Drafting(drafter, self._method, budget, target_tokenizer)
        self._texts: list[Text] = []  # running texts, in the target's order

    def _bind(self, method: Method) -> BoundMethod:
        try:
            return method.bind(self._draft_vocabulary, self._vocabulary)
        except Exception as error:  # the target continues without a draft
            if self._draft_vocabulary is self._vocabulary:
                raise
            self._failure = failure(error)
            continue_without_draft([], error)
            return method.bind(self._vocabulary, self._vocabulary)

    def run(self, requests: Sequence[Request], finished: list[Text]) -> None:
        """Generate all texts, and append each to ``finished`` when it ends."""
        try:
            self._run(iter(requests), finished)
        finally:  # frees the caches
            self._target.reset()
            if self._drafting:
                self._drafting.reset()

    def _run(self, waiting: Iterator[Request], finished: list[Text]) -> None:
        self._target.reset()
        while True:
            while len(self._texts) < self._batch_size and (request := next(waiting, None)):
                self._begin(request)
            if not self._texts:
                return
            try:
                self._round()
            finally:  # texts that ended before an error are complete
                ended = [index for index, text in enumerate(self._texts) if text.finished]
                finished += [self._texts[index] for index in ended]
                for index in reversed(ended):
                    self._end(index)

    def _round(self) -> None:
        """One pass of the target for all texts."""
        start = perf_counter()
        with self._stage("drafting"):
            drafts = self._drafting.drafts(self._texts) if self._drafting else self._no_drafts()
        drafting = perf_counter() - start
        with self._stage("transcoding"):
            proposals = [
                self._method.transcode(draft, text.request.noise)
                for draft, text in zip(drafts, self._texts, strict=True)
            ]
        with self._stage("aligning"):
            proposals = [
                self._method.transfer(draft, proposal).cut(text.remaining - 1)
                for draft, proposal, text in zip(drafts, proposals, self._texts, strict=True)
            ]
            proposals = self._method.trim(proposals, self._budget.trim)
            if not (self._target.supports_forests and self._method.method.branches):
                proposals = [proposal.chain_of_first() for proposal in proposals]
        first = any(not text.stats.tokens for text in self._texts)
        with self._stage("target"):
            logits = self._target.read(
                [text.ids for text in self._texts], [proposal.tree for proposal in proposals]
            )
        with self._stage("verifying"):
            rows = [
                text.rows(scores, proposal)
                for text, scores, proposal in zip(self._texts, logits, proposals, strict=True)
            ]
            emitted = [
                text.commit(tokens)
                for text, tokens in zip(self._texts, self._method.verify(rows), strict=True)
            ]
        total = perf_counter() - start
        if not first:  # a pass that also reads a prompt does not predict later ones
            self._observe(drafts, proposals, emitted, drafting=drafting, total=total)
        for text, draft, proposal, tokens in zip(
            self._texts, drafts, proposals, emitted, strict=True
        ):
            self._record(text, draft, proposal, tokens)

    def _no_drafts(self) -> list[Draft]:
        return [Draft() for _ in self._texts]

    def _observe(
        self,
        drafts: Sequence[Draft],
        proposals: Sequence[Proposal],
        emitted: Sequence[Sequence[int]],
        *,
        drafting: float,
        total: float,
    ) -> None:
        texts = len(self._texts)
        self._budget.observe(
            Outcome(
                texts=texts,
                rows=texts * (1 + max(len(proposal.tree) for proposal in proposals)),
                tokens=sum(map(len, emitted)),
                drafting=drafting,
                total=total,
                levels=self._levels(drafts),
                draft_rows=sum(len(draft.expanded) for draft in drafts),
                visits=[
                    visit
                    for draft, tokens in zip(drafts, emitted, strict=True)
                    for visit in draft.visits(
                        self._vocabulary.decode(tokens), self._draft_vocabulary
                    )
                ],
            )
        )

    def _levels(self, drafts: Sequence[Draft]) -> int:
        """Passes of the draft; a drafter that asks for no level has made one."""
        made = self._drafting.levels if self._drafting else 0
        return max(made, int(any(draft.ids for draft in drafts)))

    def _record(self, text: Text, draft: Draft, proposal: Proposal, tokens: list[int]) -> None:
        accepted = proposal.tree.follow(tokens)
        cases = [] if proposal.cases is None else proposal.cases.tolist()
        names = self._method.method.case_names
        text.stats.drafted += len(draft)
        text.stats.proposed += len(proposal)
        text.stats.record_round(accepted, (names[case] for case in cases))
        text.request.watch(Round(tokens, accepted, text.request.index))

    def _begin(self, request: Request) -> None:
        stats = Stats(method=self._name, exact=self._method.exact, draft_failure=self._failure)
        stats.begin(*self._forwards())
        text = Text(request, self._vocabulary, stats)
        self._texts.append(text)
        if self._drafting:
            with stats.stage("drafting"):
                self._drafting.begin(text)

    def _end(self, index: int) -> None:
        """Take a text out of the batch; the last one takes its index."""
        text = self._texts[index]
        text.stats.end(*self._forwards())
        drop(self._texts, index)
        self._target.drop(index)
        if self._drafting:
            self._drafting.end(text)

    def _forwards(self) -> tuple[int, int]:
        return self._target.forwards, self._drafting.forwards if self._drafting else 0

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage of all running texts."""
        start = perf_counter()
        try:
            yield
        finally:
            seconds = perf_counter() - start
            for text in self._texts:
                text.stats.stage_seconds[name] += seconds
