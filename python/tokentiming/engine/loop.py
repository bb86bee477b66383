"""The loop: draft, transcode, align, transfer, verify, commit. No other module knows all stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from tokentiming.drafters import Drafter
from tokentiming.engine.budget import Budget, Outcome
from tokentiming.engine.covered import Covered
from tokentiming.engine.drafting import Drafting, continue_without_draft, drop, failure
from tokentiming.engine.request import Round
from tokentiming.engine.text import Text
from tokentiming.methods import Method, Proposal
from tokentiming.runners.base import ModelRunner
from tokentiming.tokens.vocabulary import Vocabulary


class Decoding:
    """Generates several texts at once. When one ends, the next one joins the batch.

    Args:
        target: runs the target model.
        vocabulary: the target's.
        drafters: in the order in which they draft. Without any, a round is a step of the target.
        method: how to propose and verify.
        budget: what to propose.
        target_tokenizer: for drafters, which convert prompts.
        batch_size: maximum number of texts at once.
    """

    def __init__(
        self,
        target: ModelRunner,
        vocabulary: Vocabulary,
        drafters: Sequence[Drafter],
        method: Method,
        budget: Budget,
        *,
        target_tokenizer: Any = None,
        batch_size: int = 1,
    ) -> None:
        self._target = target
        self._vocabulary = vocabulary
        self._budget = budget
        self._batch_size = batch_size
        self._failure: str | None = None
        self._texts: list[Text] = []  # running texts, in the target's order
        self._method = method.bind(vocabulary, vocabulary)
        self._sources: list[Drafting] = []
        for drafter in drafters:
            self._add(drafter, method, target_tokenizer)

    def _add(self, drafter: Drafter, method: Method, target_tokenizer: Any) -> None:
        try:
            bound = method.bind(drafter.vocabulary or self._vocabulary, self._vocabulary)
        except Exception as error:  # the target continues without this drafter
            self._failure = failure(error)
            continue_without_draft([], error)
            return
        self._method = bound
        self._sources.append(
            Drafting(drafter, len(self._sources), bound, self._budget, target_tokenizer)
        )

    def run(self, texts: Sequence[Text]) -> None:
        """Generate all texts. After an error each has the tokens committed before it."""
        try:
            self._run(iter(texts))
        finally:
            for text in self._texts:  # an error interrupted them
                text.stats.end(*self._forwards())
            self._target.reset()  # frees the caches
            for source in self._sources:
                source.reset()

    def _run(self, waiting: Iterator[Text]) -> None:
        self._target.reset()
        while True:
            while len(self._texts) < self._batch_size and (text := next(waiting, None)):
                self._begin(text)
            if not self._texts:
                return
            self._round()
            ended = [index for index, text in enumerate(self._texts) if text.finished]
            for index in reversed(ended):
                self._end(index)

    def _round(self) -> None:
        """One pass of the target for all texts."""
        start = perf_counter()
        proposals = self._proposals()
        reads_prompt = any(not text.stats.tokens for text in self._texts)
        rows_after = [
            [text.ids[-1], *proposal.tree.tokens]
            for text, proposal in zip(self._texts, proposals, strict=True)
        ]
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
        for source in self._sources:
            source.learn(rows_after, logits)
        total = perf_counter() - start
        self._observe(proposals, emitted, total, reads_prompt=reads_prompt)
        rounds = [
            self._record(index, text, proposals[index], emitted[index])
            for index, text in enumerate(self._texts)
        ]
        for text, round_ in zip(self._texts, rounds, strict=True):
            text.request.watch(round_)

    def _proposals(self) -> list[Proposal]:
        """What all drafters together propose to each text."""
        texts = self._texts
        made: list[list[Proposal]] = [[] for _ in texts]  # for each text that of each drafter
        merged = [Proposal() for _ in texts]
        self._budget.begin_round(len(texts))
        for source in self._sources:
            covered = [Covered(proposal, self._vocabulary) for proposal in merged]
            limit = self._budget.limit(
                source.number,
                [of_text.after(b"") for of_text in covered],
                unread=source.unread,
            )
            for of_text, proposal in zip(made, self._drafted(source, limit, covered), strict=True):
                of_text.append(proposal)
            if limit:
                merged = list(
                    self._budget.propose(source.number, [Proposal.merge(one) for one in made])
                )
        proposals = [
            proposal.cut(text.remaining - 1) for proposal, text in zip(merged, texts, strict=True)
        ]
        proposals = self._method.trim(proposals, self._budget.trim)
        if self._target.supports_forests and self._method.method.branches:
            return proposals
        return [proposal.likeliest_chain() for proposal in proposals]

    def _drafted(
        self, source: Drafting, limit: int, covered: Sequence[Covered]
    ) -> Sequence[Proposal]:
        """What a drafter proposes to each text, in at most ``limit`` levels."""
        if not limit:
            source.skip(self._texts)
            return [Proposal()] * len(self._texts)
        with self._stage("drafting"):
            source.draft(self._texts, limit, covered)
        with self._stage("transcoding"):
            transcoded = source.transcode(self._texts)
        with self._stage("aligning"):
            return source.transfer(transcoded)

    def _observe(
        self,
        proposals: Sequence[Proposal],
        emitted: Sequence[Sequence[int]],
        total: float,
        *,
        reads_prompt: bool,
    ) -> None:
        texts = len(self._texts)
        self._budget.observe(
            Outcome(
                texts=texts,
                rows=texts * (1 + max(len(proposal.tree) for proposal in proposals)),
                tokens=sum(map(len, emitted)),
                total=total,
                drafted=[source.drafted(proposals, emitted) for source in self._sources],
                emitted=emitted,
                reads_prompt=reads_prompt,
            )
        )

    def _record(self, index: int, text: Text, proposal: Proposal, tokens: list[int]) -> Round:
        """Count a round of one text."""
        path = proposal.tree.follow(tokens)
        cases = [] if proposal.cases is None else proposal.cases.tolist()
        names = self._method.method.case_names
        text.stats.drafted += sum(len(source.drafts[index]) for source in self._sources)
        text.stats.proposed += len(proposal)
        drafters = [proposal.sources[node][0] if proposal.sources else 0 for node in path]
        text.stats.record_round(drafters, (names[case] for case in cases))
        return Round(tokens, len(path), text.request.index)

    def _begin(self, text: Text) -> None:
        text.stats.exact, text.stats.draft_failure = self._method.exact, self._failure
        text.stats.begin(*self._forwards())
        self._texts.append(text)
        self._budget.begin()
        with text.stats.stage("drafting"):
            for source in self._sources:
                source.begin(text)

    def _end(self, index: int) -> None:
        """Take a text out of the batch; the last one takes its index."""
        text = self._texts[index]
        text.stats.end(*self._forwards())
        drop(self._texts, index)
        self._target.drop(index)
        for source in self._sources:
            source.end(text)

    def _forwards(self) -> tuple[int, int]:
        return self._target.forwards, sum(source.forwards for source in self._sources)

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
