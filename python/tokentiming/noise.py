"""The shared noise: one exponential race per state, the same for every model and token spelling."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import torch

from tokentiming import ops
from tokentiming.devices import send
from tokentiming.tokens.vocabulary import Vocabulary


class State(NamedTuple):
    """Where in the generated part a token is emitted; no state occurs twice in a sequence."""

    offset: int = 0
    """Bytes generated so far."""
    zero_byte_tokens: int = 0
    """Tokens without bytes generated so far."""

    def after(self, data: bytes) -> State:
        """The state that follows the emission of a token with these bytes."""
        if data:
            return State(self.offset + len(data), self.zero_byte_tokens)
        return State(self.offset, self.zero_byte_tokens + 1)

    def on(self, device: torch.device) -> torch.Tensor:
        """The state as a tensor, int64 ``[1, 2]``."""
        return send(torch.tensor([self], device="cpu"), device)


@dataclass(frozen=True)
class Noise:
    """Independent Exp(1) variates ``E(state, token)``, fixed by a seed and a sequence's index."""

    seed: int
    row: int = 0

    def race(
        self, scores: torch.Tensor, vocabulary: Vocabulary, states: torch.Tensor
    ) -> torch.Tensor:
        """The token with the least ``E(state, token) / p(token)``: an exact draw from ``p``.

        Args:
            scores: float ``[R, V]`` or wider, log ``p`` up to a constant; entries beyond the
                vocabulary (padding of the model's head) never win.
            vocabulary: gives each token its key, so that equal bytes get equal noise.
            states: where each row's token is emitted, int64 ``[R, 2]``.

        Returns:
            int64 ``[R]``, beside the scores.
        """
        columns = min(scores.shape[1], len(vocabulary))
        keys = vocabulary.on(scores.device).keys[:columns]
        states = self._with_row(states)
        return ops.sample(scores[:, :columns], keys, seed=self.seed, states=states)

    def lead(
        self,
        scores: torch.Tensor,
        vocabulary: Vocabulary,
        states: torch.Tensor,
        winner: torch.Tensor,
    ) -> torch.Tensor:
        """How far the winner of one race is ahead of the second, in nats of ``p``.

        Another distribution has the same winner on the same noise unless it shifts the log-odds of
        the two tokens by more than this.

        Args:
            scores: ``[1, V]``, as in ``race``.
            vocabulary: as in ``race``.
            states: ``[1, 2]``, as in ``race``.
            winner: what ``race`` returned, ``[1]``.

        Returns:
            float64 ``[1]``; infinite where no other token takes part.
        """
        # The winner takes part again with the least score, so that there is always a second.
        others = scores.index_fill(1, winner, torch.finfo(scores.dtype).min)
        second = self.race(others, vocabulary, states)
        pair = torch.cat((winner, second))
        keys = vocabulary.on(scores.device).keys[pair]
        noise = ops.log_noise(keys, seed=self.seed, states=self._with_row(states))[0]
        finish = scores[0, pair].double() - noise
        return torch.where(second == winner, torch.inf, finish[:1] - finish[1:])

    def _with_row(self, states: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.full_like(states[:, :1], self.row), states), 1)

    def stream(self, purpose: str) -> Stream:
        """Variates independent of this noise and of the streams for other purposes."""
        digest = hashlib.blake2b(
            purpose.encode(), key=self.seed.to_bytes(8, "little"), digest_size=8
        ).digest()
        return Stream(int.from_bytes(digest, "little"), self.row)


class Stream:
    """A sequence of draws, each with new variates.

    Unlike the shared noise they do not depend on the state: after a rejection the same state is
    drafted again, and must not reuse the randomness that led to the rejection.
    """

    def __init__(self, seed: int, row: int) -> None:
        self._seed = seed
        self._row = row
        self._calls = 0

    def draw(self, distribution: torch.Tensor) -> torch.Tensor:
        """Draw an index from a distribution ``[1, V]``, normalized or not: int64 ``[1]``."""
        keys = torch.arange(distribution.shape[1], device=distribution.device)
        states = send(self._fresh(), distribution.device)
        return ops.sample(distribution.log(), keys, seed=self._seed, states=states)

    def uniforms(self, count: int) -> torch.Tensor:
        """Float64 ``[count]`` in [0, 1), fine-grained near 0."""
        keys = torch.arange(count, device="cpu")
        noise = ops.log_noise(keys, seed=self._seed, states=self._fresh())[0]
        return (-torch.expm1(-noise.exp())).clamp_(max=1 - 2**-53)

    def _fresh(self) -> torch.Tensor:
        self._calls += 1
        return torch.tensor([[self._row, self._calls, 0]], device="cpu")


def draw_seed() -> int:
    """A seed from torch's global generator, so that ``torch.manual_seed`` governs it."""
    return int(torch.randint(2**63 - 1, (), device="cpu"))
