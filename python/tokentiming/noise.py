"""The shared noise: one exponential race per state, the same for every model and token spelling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from tokentiming import ops
from tokentiming.devices import send
from tokentiming.tokens.vocabulary import Vocabulary


class State(NamedTuple):
    """Where in the generated part of a text a token is emitted; no state occurs twice."""

    offset: int = 0
    """Bytes generated so far."""
    zero_byte_tokens: int = 0
    """Tokens without bytes generated so far."""

    def after(self, data: bytes) -> State:
        """The state that follows the emission of a token with these bytes."""
        if data:
            return State(self.offset + len(data), self.zero_byte_tokens)
        return State(self.offset, self.zero_byte_tokens + 1)


class Noise:
    """The random choices of one text, fixed by a seed and the index of the text.

    Args:
        seed: 0 to 2**63 - 1.
        row: index of the text; texts of one seed with different rows are independent.

    Attributes:
        draft: draws of the draft that are independent of the shared noise.
        verify: uniforms of rejection sampling, independent of both.
    """

    def __init__(self, seed: int, row: int = 0) -> None:
        self.seed = seed
        self.row = row
        self.draft = Stream.of(seed, row, "draft")
        self.verify = Stream.of(seed, row, "verify")

    def race(
        self, scores: torch.Tensor, vocabulary: Vocabulary, states: torch.Tensor
    ) -> torch.Tensor:
        """The token with the least ``E(state, token) / p(token)``: an exact draw from ``p``.

        ``E`` are independent Exp(1) variates. One call may hold several texts with the same seed.

        Args:
            scores: float ``[R, V]`` or wider, log ``p`` up to a constant; entries beyond the
                vocabulary (padding of the model's head) never win.
            vocabulary: gives each token its key, so that equal bytes get equal noise.
            states: row of the text, offset and zero-byte tokens of each draw, int64 ``[R, 3]``.

        Returns:
            int64 ``[R]``, on the device of the scores.
        """
        scores, keys = _within(scores, vocabulary)
        return ops.sample(scores, keys, seed=self.seed, states=states)

    def candidates(
        self,
        scores: torch.Tensor,
        vocabulary: Vocabulary,
        states: torch.Tensor,
        count: int,
        tokens: torch.Tensor | None = None,
    ) -> ops.Candidates:
        """The first tokens of each race, and estimates of the probability that each one wins.

        Under another distribution the winner is the same unless the log-odds of two tokens shift by
        more than their gap in the race. The softmax of ``log p - log E`` turns these gaps into
        probabilities.

        Args:
            scores: as in ``race``.
            vocabulary: as in ``race``.
            states: as in ``race``.
            count: how many tokens of each race.
            tokens: ids of the scores' columns, int64 ``[C]``, ascending, if only these race. The
                candidates are then columns.
        """
        scores, keys = _within(scores, vocabulary, tokens)
        return ops.candidates(scores, keys, seed=self.seed, states=states, count=count)


class Place(NamedTuple):
    """Where a token is drawn."""

    noise: Noise
    """The random choices of its text."""
    state: State


def race(scores: torch.Tensor, vocabulary: Vocabulary, places: Sequence[Place]) -> torch.Tensor:
    """The winner of each row's race, int64 ``[R]``; scores ``[R, V]`` at R places."""
    winners = torch.empty(len(places), dtype=torch.int64, device=scores.device)
    for noise, rows, states in _by_seed(places, scores.device):
        winners[rows] = noise.race(scores[rows], vocabulary, states)
    return winners


def candidates(
    scores: torch.Tensor,
    vocabulary: Vocabulary,
    places: Sequence[Place],
    count: int,
    tokens: torch.Tensor | None = None,
) -> ops.Candidates:
    """The first tokens of each row's race; scores ``[R, V]`` at R places.

    With ``tokens``, int64 ``[C]``, only these race: scores ``[R, C]``, and candidates are columns.
    """
    shape = (len(places), count)
    ids = torch.empty(shape, dtype=torch.int64, device=scores.device)
    shares = torch.empty(shape, dtype=torch.float32, device=scores.device)
    for noise, rows, states in _by_seed(places, scores.device):
        ids[rows], shares[rows] = noise.candidates(scores[rows], vocabulary, states, count, tokens)
    return ops.Candidates(ids, shares)


def _by_seed(
    places: Sequence[Place], device: torch.device
) -> Iterator[tuple[Noise, slice | list[int], torch.Tensor]]:
    """Noise, rows and states ``[R, 3]`` of the places of each seed."""
    seeds: dict[int, list[int]] = {}
    for i, place in enumerate(places):
        seeds.setdefault(place.noise.seed, []).append(i)
    for rows in seeds.values():
        states = [(places[i].noise.row, *places[i].state) for i in rows]
        together = slice(None) if len(seeds) == 1 else rows  # a slice copies nothing
        yield places[rows[0]].noise, together, send(torch.tensor(states, device="cpu"), device)


def _within(
    scores: torch.Tensor, vocabulary: Vocabulary, tokens: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and keys of the columns that are tokens of the vocabulary."""
    keys = vocabulary.on(scores.device).keys
    if tokens is not None:
        tokens = tokens[tokens < len(vocabulary)]  # the first ones, as they are ascending
        return scores[:, : len(tokens)], keys[tokens]
    columns = min(scores.shape[1], len(vocabulary))
    return scores[:, :columns], keys[:columns]


class Stream:
    """A sequence of draws, each with new variates.

    Unlike the shared noise, the variates do not depend on the state. After a rejection the same
    state is drafted again, and must not reuse the randomness that led to the rejection.
    """

    def __init__(self, seed: int, row: int) -> None:
        self._seed = seed
        self._row = row
        self._calls = 0

    @classmethod
    def of(cls, seed: int, row: int, purpose: str) -> Stream:
        """Variates independent of the shared noise and of the streams for other purposes."""
        digest = hashlib.blake2b(purpose.encode(), key=seed.to_bytes(8, "little"), digest_size=8)
        return cls(int.from_bytes(digest.digest(), "little"), row)

    def draw(self, distribution: torch.Tensor) -> torch.Tensor:
        """Draw an index from a distribution ``[1, V]``, normalized or not: int64 ``[1]``."""
        keys = torch.arange(distribution.shape[1], device=distribution.device)
        states = send(self._fresh(), distribution.device)
        return ops.sample(distribution.log(), keys, seed=self._seed, states=states)

    def draws(self, scores: torch.Tensor, count: int) -> torch.Tensor:
        """Draw different indices, one after another, from the softmax of scores ``[1, V]``.

        Returns:
            int64 ``[1, count]``; -1 where no index is left that can be drawn.
        """
        keys = torch.arange(scores.shape[1], device=scores.device)
        states = send(self._fresh(), scores.device)
        return ops.candidates(scores, keys, seed=self._seed, states=states, count=count).ids

    def uniforms(self, count: int) -> torch.Tensor:
        """Float64 ``[count]`` in [0, 1), with a fine resolution near 0."""
        keys = torch.arange(count, device="cpu")
        noise = ops.log_noise(keys, seed=self._seed, states=self._fresh())[0]
        return (-torch.expm1(-noise.exp())).clamp_(max=1 - 2**-53)

    def _fresh(self) -> torch.Tensor:
        self._calls += 1
        return torch.tensor([[self._row, self._calls, 0]], device="cpu")


def draw_seed() -> int:
    """A seed from torch's global generator, so that ``torch.manual_seed`` determines it."""
    return int(torch.randint(2**63 - 1, (), device="cpu"))
