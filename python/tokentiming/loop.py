"""The loop: draft, transcode, align, transfer, verify, commit. It alone knows all other rooms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from transformers import LogitsProcessorList

from tokentiming.cache import CachedModel
from tokentiming.devices import send
from tokentiming.drafters import Draft, Drafter
from tokentiming.methods import Greedy, Method, Proposal
from tokentiming.noise import Noise, State
from tokentiming.pace import Outcome, Pace
from tokentiming.prompts import Prompt
from tokentiming.stats import Stats
from tokentiming.vocabulary import Vocabulary


@dataclass(frozen=True)
class Round:
    """What one round committed, for those who watch."""

    tokens: list[int]
    """Emitted target ids."""
    accepted: int
    """How many of them, from the first on, had been proposed."""


@dataclass(frozen=True)
class Request:
    """How one sequence is to be generated, as transformers prepared it."""

    prompt: Prompt
    processors: LogitsProcessorList
    warpers: LogitsProcessorList
    """Those of the processors that the draft's scores go through as well."""
    finished: Callable[[torch.Tensor, Any], Any]
    """Stopping criteria: ids ``[1, L]`` -> bool ``[1]``."""
    finished_on: torch.device
    """Where they want the ids."""
    room: int
    """Most tokens to generate."""
    do_sample: bool
    noise: Noise
    watch: Callable[[Round], None]


class Decoding:
    """One sequence in the making.

    Args:
        target: the target model, read through its cache.
        vocabulary: the target's.
        drafter: None makes every round a plain step of the target.
        method: how to sample; greedy decoding has one rule for all of them.
        pace: decides the drafts' lengths.
        request: what to generate.
    """

    def __init__(
        self,
        target: CachedModel,
        vocabulary: Vocabulary,
        drafter: Drafter | None,
        method: Method,
        pace: Pace,
        request: Request,
    ) -> None:
        self._target = target
        self._vocabulary = vocabulary
        self._drafter = drafter
        self._pace = pace
        self._request = request
        self._method = method if request.do_sample else Greedy()
        self._method.begin(request.noise, drafter.vocabulary if drafter else None, vocabulary)
        self.stats = Stats(method=method.name, exact=self._method.exact)
        self.ids = list(request.prompt.ids)
        self._text = b""
        self._state = State()
        self._done = False

    def run(self, target_tokenizer: Any) -> list[int]:
        """Generate to the end; returns prompt and new ids."""
        start = perf_counter()
        self._target.reset()
        before = self._target.forwards, self._drafter.forwards if self._drafter else 0
        if self._drafter:
            with self.stats.stage("drafting"):
                self._drafter.begin(self._request.prompt, target_tokenizer, self._request.warpers)
        while not self._done:
            self._round()
        self.stats.seconds = perf_counter() - start
        self.stats.target_forwards = self._target.forwards - before[0]
        self.stats.draft_forwards = (self._drafter.forwards if self._drafter else 0) - before[1]
        return self.ids

    def _round(self) -> None:
        start = perf_counter()
        room = self._request.room - self.stats.tokens
        draft = self._propose(room - 1)
        drafting = perf_counter() - start
        with self.stats.stage("transcoding"):
            proposal = self._transcode(draft)
        with self.stats.stage("aligning"):
            proposal = self._method.transfer(draft, proposal).cut(room - 1)
        read = self.ids + proposal.ids
        first = not self.stats.tokens
        with self.stats.stage("target"):
            logits = self._target.logits(read, keep=len(proposal.ids) + 1)
        with self.stats.stage("verifying"):
            rows = Rows(
                logits,
                read,
                self._states(proposal.ids),
                self._request.processors,
                at_once=len(logits) if self._target.looking_waits else 1,
            )
            emitted = self._method.verify(rows, proposal)
        tokens = self._commit(emitted)
        accepted = min(len(emitted) - 1, len(tokens))
        self.stats.drafted += len(draft.ids)
        self.stats.proposed += len(proposal)
        self.stats.accepted += accepted
        if proposal.cases is not None:
            names = self._method.case_names
            self.stats.transfer_cases.update(names[case] for case in proposal.cases.tolist())
        self.stats.accepted_per_round[accepted] += 1
        if not first:  # the first pass reads the prompt too and says nothing about later ones
            self._pace.observe(
                Outcome(
                    confidences=draft.confidences,
                    kept=self._drafted_and_kept(draft, proposal.ids[: len(emitted) - 1]),
                    tokens=len(tokens),
                    rows=len(proposal.ids) + 1,
                    drafting=drafting,
                    total=perf_counter() - start,
                )
            )
        self._request.watch(Round(tokens, accepted))

    def _propose(self, room: int) -> Draft:
        limit = min(self._pace.begin_round(), room) if self._drafter else 0
        if not self._drafter or limit < 1:
            return Draft()
        if self._drafter.in_one_go:
            limit = min(limit, self._pace.length_ahead())
        with self.stats.stage("drafting"):
            ask = partial(self._drafter.propose, self._text, self._state)
            return self._method.draft(ask, limit, self._pace.wants_more)

    def _transcode(self, draft: Draft) -> Proposal:
        return self._method.transcode(draft) if draft.drawn else Proposal()

    def _states(self, proposal: Sequence[int]) -> list[State]:
        states = [self._state]
        for token in proposal:
            states.append(states[-1].after(self._vocabulary.token_bytes(token)))
        return states

    def _commit(self, emitted: Sequence[int]) -> list[int]:
        """Append emitted tokens one by one, up to where a stopping criterion says so."""
        committed: list[int] = []
        ids = torch.tensor([[*self.ids, *emitted]], device=self._request.finished_on)
        for token in emitted:
            data = self._vocabulary.token_bytes(token)
            self.ids.append(token)
            committed.append(token)
            self._text += data
            self._state = self._state.after(data)
            self._done = bool(self._request.finished(ids[:, : len(self.ids)], None))
            if self._done or self.stats.tokens + len(committed) == self._request.room:
                self._done = True
                break
        self.stats.tokens += len(committed)
        return committed

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


class Rows:
    """The target's scores along a proposal, processed as they are asked for.

    Logits processors can cost as much as a row of the forward pass, and a rejection makes the rows
    behind it needless. Where a look at a result is to wait, all of them together are cheaper still.

    Args:
        logits: of all rows, ``[M + 1, V]``.
        read: ids that the target has read, the M proposed ones last.
        states: of all rows.
        processors: of logits.
        at_once: how many rows to ask for together.
    """

    def __init__(
        self,
        logits: torch.Tensor,
        read: list[int],
        states: Sequence[State],
        processors: LogitsProcessorList,
        at_once: int,
    ) -> None:
        self.at_once = at_once
        self._logits = logits
        self._read = read
        self._states = states
        self._processors = processors

    def scores(self, rows: range) -> torch.Tensor:
        scores = self._logits[rows.start : rows.stop]
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if not self._processors:
            return scores
        committed = len(self._read) - len(self._logits) + 1
        ids = send(torch.tensor([self._read]), scores.device)
        return torch.cat(
            [
                self._processors(ids[:, : committed + j], scores[i : i + 1])
                for i, j in enumerate(rows)
            ]
        )

    def states(self, rows: range) -> torch.Tensor:
        return send(torch.tensor(self._states[rows.start : rows.stop]), self._logits.device)
