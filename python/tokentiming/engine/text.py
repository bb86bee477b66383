"""One text while it is generated."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tokentiming.devices import send
from tokentiming.drafters.base import DraftRequest
from tokentiming.drafters.draft import Draft
from tokentiming.engine.request import Request
from tokentiming.engine.rows import Rows
from tokentiming.engine.stats import Stats
from tokentiming.methods import Proposal
from tokentiming.noise import Place, State
from tokentiming.tokens.tree import Tree
from tokentiming.tokens.vocabulary import Vocabulary


class Text:
    """A text, its committed tokens, and its statistics.

    Args:
        request: what to generate.
        vocabulary: the target's.
        stats: to record in.

    Attributes:
        ids: of the prompt and of the committed tokens.
    """

    def __init__(self, request: Request, vocabulary: Vocabulary, stats: Stats) -> None:
        self.request = request
        self.stats = stats
        self.ids = list(request.prompt.ids)
        self._vocabulary = vocabulary
        self._bytes = b""
        self._state = State()
        # The ids that processors and criteria see: the prompt with its padding and the new tokens.
        shown = request.prompt.padded
        self._shown = torch.empty(
            (1, len(shown) + request.remaining), dtype=torch.int64, device="cpu"
        )
        self._shown[0, : len(shown)] = torch.tensor(shown, device="cpu")
        self._length = len(shown)

    @property
    def new(self) -> list[int]:
        """Ids of the generated part."""
        return self.ids[len(self.request.prompt.ids) :]

    @property
    def remaining(self) -> int:
        """Tokens that may still be generated."""
        return self.request.remaining - self.stats.tokens

    @property
    def finished(self) -> bool:
        return self.stats.finish_reason is not None

    def draft_request(
        self, draft_vocabulary: Vocabulary, *, limit: int, candidates: int
    ) -> DraftRequest:
        """The request for a draft of at most ``limit`` levels, with so many children of a node."""
        limit = max(min(limit, self.remaining - 1), 0)
        draft = Draft(limit=limit, candidates=candidates, special_ids=draft_vocabulary.special_ids)
        place = Place(self.request.noise, self._state)
        return DraftRequest(self._bytes, place, draft, draft_vocabulary, self.ids)

    def rows(self, logits: torch.Tensor, proposal: Proposal) -> Rows:
        """The target's scores after the text and after each node of a proposal."""
        return Rows(
            logits,
            proposal,
            self._shown[:, : self._length],
            [Place(self.request.noise, state) for state in self._states(proposal.tree)],
            self.request.processors,
            emitted_only=self.request.emitted_only,
        )

    def _states(self, tree: Tree) -> list[State]:
        states = [self._state]
        for token, parent in zip(tree.tokens, tree.parents, strict=True):
            states.append(states[parent + 1].after(self._vocabulary.token_bytes(token)))
        return states

    def commit(self, emitted: Iterator[int]) -> list[int]:
        """Commit tokens until the text ends, and return the committed ones."""
        tokens: list[int] = []
        for token in emitted:
            tokens.append(token)
            self._commit(token)
            if self.finished:
                break
        return tokens

    def _commit(self, token: int) -> None:
        data = self._vocabulary.token_bytes(token)
        self.ids.append(token)
        self._bytes += data
        self._state = self._state.after(data)
        self._shown[0, self._length] = token
        self._length += 1
        self.stats.tokens += 1
        shown = send(self._shown[:, : self._length], self.request.criteria_device)
        self.stats.finish_reason = self.request.end_reason(shown)
        if self.stats.finish_reason is None and not self.remaining:
            self.stats.finish_reason = "length"
