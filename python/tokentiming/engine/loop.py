"""The loop: draft, transcode, align, transfer, verify, commit. Only it knows all stages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any

import torch

from tokentiming.devices import send
from tokentiming.drafters import Draft, Drafter
from tokentiming.drafters.base import Choice, Choose, WantsMore
from tokentiming.engine.draft_length import DraftLength, Outcome
from tokentiming.engine.request import Request, Round
from tokentiming.engine.rows import Rows
from tokentiming.engine.stats import Stats
from tokentiming.methods import BoundMethod, Greedy, Method, Proposal
from tokentiming.noise import State
from tokentiming.runners.base import ModelRunner, common_prefix
from tokentiming.tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


class Decoding:
    """Generates one sequence.

    Args:
        target: runs the target model.
        vocabulary: the target's.
        drafter: None makes every round a plain step of the target.
        method: how to sample; greedy decoding has one rule for all of them.
        draft_length: decides the length of each draft.
        request: what to generate.
    """

    def __init__(
        self,
        target: ModelRunner,
        vocabulary: Vocabulary,
        drafter: Drafter | None,
        method: Method,
        draft_length: DraftLength,
        request: Request,
    ) -> None:
        self._target = target
        self._vocabulary = vocabulary
        self._drafter = drafter
        self._draft_length = draft_length
        self._request = request
        self.stats = Stats(method=method.name, exact=True)
        self._case_names = method.case_names
        self._method = self._bind(method if request.do_sample else Greedy())
        self.stats.exact = self._method.exact
        self.ids = list(request.prompt.ids)
        self._text = b""
        self._state = State()
        # What processors and criteria are shown: the prompt with its padding, and the new tokens.
        shown = request.prompt.padded
        longest = len(shown) + request.remaining
        self._shown = torch.empty((1, longest), dtype=torch.int64, device="cpu")
        self._shown[0, : len(shown)] = torch.tensor(shown, device="cpu")
        self._length = len(shown)

    def _bind(self, method: Method) -> BoundMethod:
        if self._drafter:
            try:
                draft_vocabulary = self._drafter.vocabulary
                return method.bind(self._request.noise, draft_vocabulary, self._vocabulary)
            except Exception as error:  # a failing draft costs speed and nothing else
                self._continue_without_draft(error)
        return method.bind(self._request.noise, self._vocabulary, self._vocabulary)

    def run(self, target_tokenizer: Any) -> list[int]:
        """Generate to the end; returns prompt and new ids."""
        start = perf_counter()
        self._target.reset()
        before = self._target.forwards, self._drafter.forwards if self._drafter else 0
        source = self._drafter
        if self._drafter:
            with self.stats.stage("drafting"):
                try:
                    self._drafter.begin(
                        self._request.prompt, target_tokenizer, self._request.warpers
                    )
                except Exception as error:  # a failing draft costs speed and nothing else
                    self._continue_without_draft(error)
        while self.stats.finish_reason is None:
            self._round()
        self.stats.seconds = perf_counter() - start
        self.stats.target_forwards = self._target.forwards - before[0]
        self.stats.draft_forwards = (source.forwards if source else 0) - before[1]
        return self.ids

    def _round(self) -> None:
        start = perf_counter()
        remaining = self._request.remaining - self.stats.tokens
        draft = self._propose(remaining - 1)
        drafting = perf_counter() - start
        with self.stats.stage("transcoding"):
            proposal = self._transcode(draft)
        with self.stats.stage("aligning"):
            proposal = self._method.transfer(draft, proposal).cut(remaining - 1)
        first = not self.stats.tokens
        with self.stats.stage("target"):
            logits = self._target.logits([*self.ids, *proposal.ids], keep=len(proposal.ids) + 1)
        with self.stats.stage("verifying"):
            tokens = self._emit(self._rows(logits, proposal.ids), proposal)
        accepted = common_prefix(tokens, list(proposal.ids))
        self.stats.drafted += len(draft.ids)
        self.stats.proposed += len(proposal)
        cases = [] if proposal.cases is None else proposal.cases.tolist()
        self.stats.record_round(accepted, (self._case_names[case] for case in cases))
        if not first:  # the first pass reads the prompt too and says nothing about later ones
            self._draft_length.observe(
                Outcome(
                    confidences=draft.confidences,
                    kept=self._drafted_and_kept(draft, proposal.ids[:accepted]),
                    tokens=len(tokens),
                    rows=len(proposal.ids) + 1,
                    drafting=drafting,
                    total=perf_counter() - start,
                )
            )
        self._request.watch(Round(tokens, accepted))

    def _propose(self, remaining: int) -> Draft:
        limit = min(self._draft_length.begin_round(), remaining) if self._drafter else 0
        if not self._drafter or limit < 1:
            return Draft()
        if self._drafter.synchronizes:
            limit = min(limit, self._draft_length.length_ahead())
        with self.stats.stage("drafting"):
            return self._method.draft(self._ask, limit, self._draft_length.wants_more)

    def _ask(self, limit: int, choose: Choose, wants_more: WantsMore) -> Draft:
        """Ask the drafter for a draft. After an error, return what it had drawn and ask no more.

        Tokens that were drawn are verified even then: whether they are proposed must not depend on
        what was drawn, or rejection sampling is biased.
        """
        if not self._drafter:
            return Draft()
        drawn: list[Choice] = []

        def recorded(scores: torch.Tensor, states: torch.Tensor) -> Choice | None:
            choice = choose(scores, states)
            if choice is not None:
                drawn.append(choice)
            return choice

        try:
            draft = self._drafter.propose(self._text, self._state, limit, recorded, wants_more)
            if not isinstance(draft, Draft):
                raise TypeError(f"propose returned a {type(draft).__name__}; return a Draft")
            draft.check(self._drafter.vocabulary)
            return draft
        except Exception as error:  # a failing draft costs speed and nothing else
            draft = Draft()
            with suppress(ValueError):  # at the first that could not be drawn
                draft.take(drawn, self._drafter.vocabulary.special_ids)
            self._continue_without_draft(error)
            return draft

    def _continue_without_draft(self, error: Exception) -> None:
        self._drafter = None
        self.stats.draft_failure = type(error).__name__
        with suppress(Exception):  # not every error can say what it is about
            self.stats.draft_failure += f": {error}"
        logger.warning(
            "generate: the draft failed and the target goes on alone (%s)",
            self.stats.draft_failure,
            exc_info=logger.isEnabledFor(logging.DEBUG),
        )

    def _transcode(self, draft: Draft) -> Proposal:
        return self._method.transcode(draft) if draft.drawn else Proposal()

    def _states(self, proposal: Sequence[int]) -> list[State]:
        states = [self._state]
        for token in proposal:
            states.append(states[-1].after(self._vocabulary.token_bytes(token)))
        return states

    def _rows(self, logits: torch.Tensor, proposal: Sequence[int]) -> Rows:
        end = self._length + len(proposal)
        self._shown[0, self._length : end] = torch.tensor(proposal, dtype=torch.int64, device="cpu")
        return Rows(
            logits,
            self._shown[:, :end],
            self._states(proposal),
            self._request.processors,
            synchronizes=self._target.synchronizes,
            emitted_only=self._request.emitted_only,
        )

    def _emit(self, rows: Rows, proposal: Proposal) -> list[int]:
        """Commit what the method emits, until the text ends."""
        tokens: list[int] = []
        for token in self._method.verify(rows, proposal):
            tokens.append(token)
            self._commit(token)
            if self.stats.finish_reason is not None:
                break
        return tokens

    def _commit(self, token: int) -> None:
        data = self._vocabulary.token_bytes(token)
        self.ids.append(token)
        self._text += data
        self._state = self._state.after(data)
        self._shown[0, self._length] = token
        self._length += 1
        self.stats.tokens += 1
        shown = send(self._shown[:, : self._length], self._request.criteria_device)
        self.stats.finish_reason = self._request.end_reason(shown)
        if self.stats.finish_reason is None and self.stats.tokens == self._request.remaining:
            self.stats.finish_reason = "length"

    def _drafted_and_kept(self, draft: Draft, accepted: Sequence[int]) -> int:
        """How many drafted tokens lie wholly inside the accepted bytes."""
        if not self._drafter:
            return 0
        left = len(self._vocabulary.decode(accepted))
        kept = 0
        for token in draft.ids:
            left -= len(self._drafter.vocabulary.token_bytes(token))
            if left < 0:
                break
            kept += 1
        return kept
