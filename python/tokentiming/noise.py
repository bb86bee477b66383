"""The shared noise: one exponential race per state, the same for every model and token spelling."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from tokentiming import ops
from tokentiming.vocabulary import Vocabulary


class State(NamedTuple):
    """Where in the generated part a token is emitted; no state comes twice in a sequence."""

    offset: int = 0
    """Bytes generated so far."""
    zero_byte_tokens: int = 0
    """Tokens without bytes generated so far."""

    def after(self, data: bytes) -> State:
        """The state that follows the emission of a token with these bytes."""
        if data:
            return State(self.offset + len(data), self.zero_byte_tokens)
        return State(self.offset, self.zero_byte_tokens + 1)


@dataclass(frozen=True)
class Noise:
    """Independent Exp(1) variates ``E(state, token)``, fixed by a seed and a sequence's index."""

    seed: int
    row: int = 0

    def race(self, scores: torch.Tensor, vocabulary: Vocabulary, state: State) -> int:
        """The token with the least ``E(state, token) / p(token)``: an exact draw from ``p``.

        Args:
            scores: float ``[V]`` or longer, log ``p`` up to a constant; entries beyond the
                vocabulary (padding of the model's head) never win.
            vocabulary: gives each token its key, so that equal bytes meet equal noise.
            state: where the token is emitted.
        """
        states = torch.tensor([[self.row, *state]], device=scores.device)
        inside = scores[None, : len(vocabulary)]
        keys = vocabulary.on(scores.device).keys
        return int(ops.sample(inside, keys, seed=self.seed, states=states))

    def lead(
        self, scores: torch.Tensor, vocabulary: Vocabulary, state: State, winner: int
    ) -> float:
        """How far a race's winner is ahead of the second, in nats of ``p``; infinite if alone.

        Another distribution that meets the same noise has the same winner unless it shifts the two
        tokens' log-odds by more than this.
        """
        others = scores[: len(vocabulary)].clone()
        others[winner] = -torch.inf
        if not bool(torch.isfinite(others).any()):
            return math.inf
        pair = [winner, self.race(others, vocabulary, state)]
        states = torch.tensor([[self.row, *state]])
        noise = ops.log_noise(vocabulary.keys[pair], seed=self.seed, states=states)[0]
        first, second = (scores[pair].double().cpu() - noise).tolist()
        return float(first - second)

    def stream(self, purpose: str) -> Stream:
        """Variates independent of this noise and of the streams for other purposes."""
        digest = hashlib.blake2b(
            purpose.encode(), key=self.seed.to_bytes(8, "little"), digest_size=8
        ).digest()
        return Stream(int.from_bytes(digest, "little"), self.row)


class Stream:
    """Draws one after another, each on variates of its own.

    Unlike the shared noise these belong to no place in the text: after a rejection the same place
    is drafted again, and must not meet the randomness that led to the rejection.
    """

    def __init__(self, seed: int, row: int) -> None:
        self._seed = seed
        self._row = row
        self._calls = 0

    def draw(self, law: torch.Tensor) -> int:
        """An index of a law ``[V]``, which need not be normalised."""
        keys = torch.arange(len(law), device=law.device)
        states = self._fresh().to(law.device)
        return int(ops.sample(law.log()[None], keys, seed=self._seed, states=states))

    def uniforms(self, count: int) -> torch.Tensor:
        """Float64 ``[count]`` in [0, 1), fine-grained near 0."""
        noise = ops.log_noise(torch.arange(count), seed=self._seed, states=self._fresh())[0]
        return (-torch.expm1(-noise.exp())).clamp_(max=1 - 2**-53)

    def _fresh(self) -> torch.Tensor:
        self._calls += 1
        return torch.tensor([[self._row, self._calls, 0]])


def draw_seed() -> int:
    """A seed from torch's global generator, so that ``torch.manual_seed`` governs it."""
    return int(torch.randint(2**63 - 1, ()))
