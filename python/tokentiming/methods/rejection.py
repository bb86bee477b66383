"""Rejection sampling, the base of all methods that verify a token by its distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch

from tokentiming import ops
from tokentiming.devices import send
from tokentiming.drafters.base import Candidates
from tokentiming.methods.base import BoundMethod, TargetRows, together, valid_token
from tokentiming.methods.proposal import Proposal
from tokentiming.noise import Place
from tokentiming.tokens.vocabulary_map import VocabularyMap


class Rejection(BoundMethod):
    """Accepts ``x`` with ``min(1, p(x) / q(x))``, else draws from ``norm(max(p - q, 0))``.

    The emitted token has the distribution ``p`` if, given all earlier draws, ``x`` has the
    distribution ``q``. Whether a position is proposed may therefore depend on the draft's row and
    on earlier draws, but not on the token drawn there: a draft may stop after it has proposed a
    token, but may not withhold a drawn one. If ``q`` sums to less than 1, the missing mass belongs
    to draws without a target token, and such a draw is a rejection.

    A drafter without distributions proposes each token with certainty, and ``q`` is a point mass.

    Source: Leviathan et al., arXiv 2211.17192, Algorithm 1; Chen et al., arXiv 2302.01318.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.map = VocabularyMap.between(self.draft_vocabulary, self.target_vocabulary)
        self.draft_map = self.map
        """The map by which proposals with ``draft_rows`` become distributions."""

    def choose_draft(self, scores: torch.Tensor, places: Sequence[Place], count: int) -> Candidates:
        probs = torch.softmax(scores, 1)
        ids = torch.stack(
            [place.noise.draft.draw(row[None]) for row, place in zip(probs, places, strict=True)]
        )
        return Candidates(ids, probs.gather(1, ids.clamp(min=0)), probs)

    def verify(self, rows: Sequence[TargetRows]) -> list[Iterator[int]]:
        at_once = [text for text in rows if not text.emitted_only]
        certain = [text for text in at_once if text.proposal.probs is None]
        drawn = [text for text in at_once if text.proposal.probs is not None]
        emitted = {
            id(text): tokens for part in (certain, drawn) for text, tokens in self._all(part)
        }
        return [
            self._row_by_row(text) if text.emitted_only else iter(emitted[id(text)])
            for text in rows
        ]

    def _all(self, rows: Sequence[TargetRows]) -> list[tuple[TargetRows, list[int]]]:
        """What each text emits, in one call; either all texts have distributions or none has."""
        if not rows:
            return []
        scores, uniforms, ids = [], [], []
        probs: list[torch.Tensor] = []
        draft_rows: list[int] = []
        for text in rows:
            ids.append(_positions(text.proposal))
            scores.append(self._scores(text, range(len(text.proposal.ids) + 1)))
            if text.proposal.missed:  # the row is not read: a missed draw is a rejection
                scores.append(scores[-1][-1:])
            if text.proposal.probs is not None:
                first = sum(len(part) for part in probs)
                draft_rows += [first + row for row in text.proposal.draft_rows]
                probs.append(text.proposal.probs)
            uniforms.append(text.places[0].noise.verify.uniforms(len(ids[-1]) + 1))
        tokens = _emitted(
            ids,
            together(scores),
            together(probs) if probs else None,
            torch.cat(uniforms),
            draft_rows=draft_rows,
            draft_map=self.draft_map,
        )
        return list(zip(rows, tokens, strict=True))

    def _row_by_row(self, rows: TargetRows) -> Iterator[int]:
        proposal = rows.proposal
        ids = _positions(proposal)
        uniforms = rows.places[0].noise.verify.uniforms(len(ids) + 1)
        for row, token in enumerate(ids):
            # The token after an accepted one belongs to the next row, so it is not used here.
            scores = self._scores(rows, [row]).expand(2, -1)
            probs = None if proposal.probs is None else self.distribution(proposal, row)[None]
            (tokens,) = _emitted([[token]], scores, probs, uniforms[[row, -1]])
            yield tokens[0]
            if len(tokens) == 1:
                return
        (tokens,) = _emitted([[]], self._scores(rows, [len(ids)]), None, uniforms[-1:])
        yield from tokens

    def distribution(self, proposal: Proposal, at: int) -> torch.Tensor:
        """The distribution ``[V]`` of one token of a proposal that has distributions."""
        assert proposal.probs is not None
        if not proposal.draft_rows:
            return proposal.probs[at]
        row = proposal.draft_rows[at]
        draft_map = self.draft_map.on(proposal.probs.device)
        taken = proposal.ids[proposal.draft_rows.index(row) : at]
        size = len(draft_map.first)
        return draft_map.conditioned(proposal.probs[row, :size], taken, len(self.target_vocabulary))

    def _scores(self, rows: TargetRows, asked: Sequence[int]) -> torch.Tensor:
        return rows.scores(asked)[:, : len(self.target_vocabulary)]  # the other columns are padding


def _positions(proposal: Proposal) -> list[int]:
    """The proposed tokens, and -1 for a missed draw."""
    return [*proposal.ids, -1] if proposal.missed else list(proposal.ids)


def _emitted(
    ids: Sequence[Sequence[int]],
    scores: torch.Tensor,
    probs: torch.Tensor | None,
    uniforms: torch.Tensor,
    *,
    draft_rows: Sequence[int] = (),
    draft_map: VocabularyMap | None = None,
) -> list[list[int]]:
    """The accepted prefix of each of B chains, and one more token. The chains have T tokens in all.

    Args:
        ids: the proposed tokens of each chain, -1 for a missed draw.
        scores: of the target, ``[T + B, V]``.
        probs: the distributions that the tokens were drawn from, ``[T, V]``; with ``draft_rows``
            rows over the draft's vocabulary.
        uniforms: float64 ``[T + B]``.
        draft_rows: the row of ``probs`` that each token was drawn from, T of them or none.
        draft_map: makes distributions of those rows.
    """
    device = scores.device
    chain = torch.tensor(
        [token for tokens in ids for token in tokens], dtype=torch.int64, device="cpu"
    )
    offsets = torch.tensor([0, *accumulate(map(len, ids))], device="cpu")
    mapped: dict[str, Any] = {}
    if draft_rows and draft_map is not None:
        rows = torch.tensor(draft_rows, dtype=torch.int64, device="cpu")
        mapped = {"draft_rows": send(rows, device), "draft_map": draft_map.on(device).core}
    verification = ops.verify(
        send(chain, device),
        target_logits=scores,
        draft_probs=None if probs is None else send(probs, device),
        uniforms=send(uniforms, device),
        offsets=send(offsets, device),
        **mapped,
    )
    emitted = verification.tokens.tolist()
    for tokens in emitted:
        valid_token(tokens[0])
    return [[token for token in tokens if token >= 0] for tokens in emitted]
