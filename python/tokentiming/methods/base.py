"""The interface of methods: choose the draft's tokens, propose them to the target, verify them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import ClassVar, Protocol

import torch

from tokentiming import ops
from tokentiming.devices import send
from tokentiming.drafters.base import Candidates, Grow
from tokentiming.drafters.draft import Draft
from tokentiming.methods.proposal import Proposal
from tokentiming.noise import Noise, Place
from tokentiming.tokens import transcode
from tokentiming.tokens.tree import TEXT
from tokentiming.tokens.vocabulary import Vocabulary

Trim = Callable[[Sequence[Proposal]], list[Proposal]]


class TargetRows(Protocol):
    """The target's scores for one text: row 0 after the text, row ``1 + i`` after node ``i``."""

    proposal: Proposal
    places: Sequence[Place]
    """Where the token of each row is drawn."""
    emitted_only: bool
    """Whether a logits processor keeps state between calls. Each row must then be requested
    separately, after the tokens before it have been emitted."""

    def scores(self, rows: Sequence[int]) -> torch.Tensor:
        """Float scores ``[R, V]`` of some rows, logits processors applied."""


class Method(ABC):
    """The settings of a method. It keeps no state, so any number of decoders may share one."""

    name: ClassVar[str]
    case_names: ClassVar[Sequence[str]] = ()
    """The names of the numbers in ``Proposal.cases``."""
    bound: ClassVar[type[BoundMethod]]
    """What ``bind`` returns."""

    @property
    def exact(self) -> bool:
        """Whether the emitted tokens have the target's own distribution for any two vocabularies.

        ``BoundMethod.exact`` is the answer for the two vocabularies in use.
        """
        return True

    @property
    def branches(self) -> bool:
        """Whether trees with branches can be proposed; otherwise chains only."""
        return issubclass(self.bound, Matching)

    def bind(self, draft_vocabulary: Vocabulary, target_vocabulary: Vocabulary) -> BoundMethod:
        """The method between two vocabularies.

        Args:
            draft_vocabulary: the drafter's, or the target's own if there is no drafter.
            target_vocabulary: the target's.
        """
        return self.bound(self, draft_vocabulary, target_vocabulary)


class BoundMethod(ABC):
    """Drafts and verifies texts; made by ``Method.bind``.

    All randomness is in the ``Noise`` of each text.
    """

    exact = True
    """Whether the emitted tokens have the target's own distribution."""

    def __init__(
        self, method: Method, draft_vocabulary: Vocabulary, target_vocabulary: Vocabulary
    ) -> None:
        self.method = method
        self.draft_vocabulary = draft_vocabulary
        self.target_vocabulary = target_vocabulary

    @abstractmethod
    def choose_draft(self, scores: torch.Tensor, places: Sequence[Place], count: int) -> Candidates:
        """What the draft emits at R places, given its scores ``[R, V_d]``.

        Methods with branches give up to ``count`` candidates for each row, others one.
        """

    def choose_among(
        self, tokens: torch.Tensor, scores: torch.Tensor, places: Sequence[Place], count: int
    ) -> Candidates:
        """As ``choose_draft``, if only some tokens are possible.

        Args:
            tokens: their ids, int64 ``[C]``, ascending.
            scores: ``[R, C]``.
            places: as in ``choose_draft``.
            count: as in ``choose_draft``.
        """
        size = max(len(self.draft_vocabulary), int(tokens[-1]) + 1)
        every = scores.new_full((len(scores), size), -torch.inf)
        every[:, tokens] = scores
        return self.choose_draft(every, places, count)

    def grow(self, drafts: Sequence[Draft], worth: Grow) -> list[list[int]]:
        """The nodes of each draft to grow; ``worth`` chooses those that pay."""
        return worth(drafts)

    def trim(self, proposals: Sequence[Proposal], worth: Trim) -> list[Proposal]:
        """The proposals to verify; ``worth`` keeps the nodes that pay.

        ``worth`` depends on the drawn tokens, so only methods that stay exact for any proposal may
        use it. By default all drawn tokens are proposed.
        """
        return list(proposals)

    def transcode(self, draft: Draft, noise: Noise) -> Proposal:
        """The draft in the target's tokens: its bytes, re-encoded."""
        if not draft.ids:
            return Proposal()
        return Proposal(
            *transcode.proxies(
                draft.tree, draft.confidences, self.draft_vocabulary, self.target_vocabulary
            )
        )

    def transfer(self, draft: Draft, proposal: Proposal) -> Proposal:
        """The proposal with the distributions of its tokens, if the method uses them."""
        return proposal

    @abstractmethod
    def verify(self, rows: Sequence[TargetRows]) -> list[Iterator[int]]:
        """For each text emit an accepted path, and one more token drawn from the target.

        A text may end at any of these tokens; the later ones are then not requested.
        """


class Matching(BoundMethod):
    """Methods in which the target chooses its own token and accepts a proposal that is equal.

    The emitted tokens are the target's for any proposal, so any drafter is lossless.
    """

    @abstractmethod
    def choose_target(self, scores: torch.Tensor, places: Sequence[Place]) -> torch.Tensor:
        """The ids ``[R]`` that the target emits at R places, given scores ``[R, V_t]``."""

    def trim(self, proposals: Sequence[Proposal], worth: Trim) -> list[Proposal]:
        return worth(proposals)

    def verify(self, rows: Sequence[TargetRows]) -> list[Iterator[int]]:
        walked = iter(self._walk([text for text in rows if not text.emitted_only]))
        return [self._row_by_row(text) if text.emitted_only else next(walked) for text in rows]

    def _walk(self, rows: Sequence[TargetRows]) -> list[Iterator[int]]:
        """Verify all rows of all texts in one call."""
        if not rows:
            return []
        scores = together([text.scores(range(len(text.places))) for text in rows])
        try:
            picked = self.choose_target(scores, [place for text in rows for place in text.places])
        except ValueError:  # in a row that may not be reached, and is not an error then
            return [self._row_by_row(text) for text in rows]
        trees = [text.proposal.tree for text in rows]
        offsets = [0, *accumulate(map(len, trees))]
        walk = ops.walk(
            picked,
            tokens=_on(picked, [token for tree in trees for token in tree.tokens]),
            parents=_on(picked, [parent for tree in trees for parent in tree.parents]).int(),
            offsets=_on(picked, offsets),
        )
        emitted = walk.tokens.tolist()
        starts = [offset + b for b, offset in enumerate(offsets)]
        return [
            self._row_by_row(text)
            if emitted[start] < 0
            else iter(_up_to_padding(emitted[start:end]))
            for text, (start, end) in zip(rows, pairwise(starts), strict=True)
        ]

    def _row_by_row(self, rows: TargetRows) -> Iterator[int]:
        node: int | None = TEXT
        while node is not None:
            at = node + 1
            picked = self.choose_target(rows.scores([at]), rows.places[at : at + 1])
            token = valid_token(int(picked))
            yield token
            node = rows.proposal.tree.child(node, token)


def together(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate tensors; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _on(beside: torch.Tensor, values: Sequence[int]) -> torch.Tensor:
    return send(torch.tensor(values, dtype=torch.int64, device="cpu"), beside.device)


def _up_to_padding(tokens: Sequence[int]) -> Sequence[int]:
    """The first token, which may be -1, and those after it up to the next -1."""
    end = tokens.index(-1, 1) if -1 in tokens[1:] else len(tokens)
    return tokens[:end]


def valid_token(token: int) -> int:
    """Raise for a negative token, which the core returns on a GPU where it raises on the CPU."""
    if token < 0:
        raise ValueError(
            "generate: the target's scores hold NaN or +inf, or none that is finite; check the "
            "model's dtype and the logits processors"
        )
    return token


def softmax_at(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Probabilities of tokens ``[R, k]`` under the softmax of each row of scores ``[R, V]``."""
    return torch.exp(scores.gather(1, tokens) - torch.logsumexp(scores, 1, keepdim=True))
