"""Every way through the random choices of the real loop, each with its exact weight.

A run asks for random choices one after another. The first run takes the first option each time, and
later ones replay a beginning and then turn off, until all ways have been gone. What is random in
production is replaced: races and draws by branches weighted with the distribution, uniforms by the
intervals between the breakpoints of ``ops.verify``, which bisection finds in double.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest
import torch

from tests.support import toys
from tests.support.pairs import Distribution, Gram
from tokentiming import Vocabulary, methods, ops
from tokentiming.engine.draft_length import DraftLength
from tokentiming.noise import State

FINEST = 2**53
"""Uniforms are multiples of its inverse."""


class RevisitedError(AssertionError):
    """Noise was used twice."""


class Script:
    """The choices of one run: a given beginning, then the first option each time."""

    def __init__(self, beginning: list[int]) -> None:
        self._beginning = beginning
        self._taken: list[int] = []
        self.weight = Fraction(1)
        self.alternatives: list[list[int]] = []

    def choose(self, options: list[tuple[Fraction, object]]):
        """One of weighted options."""
        if len(self._taken) < len(self._beginning):
            index = self._beginning[len(self._taken)]
        else:
            index = 0
            self.alternatives += [[*self._taken, other] for other in range(1, len(options))]
        self._taken.append(index)
        weight, value = options[index]
        self.weight *= weight
        return value

    def draw(self, distribution: torch.Tensor) -> int:
        """An index of a float64 distribution."""
        assert distribution.dtype == torch.float64, "probabilities have been rounded on the way"
        weights = [Fraction(p) for p in distribution.tolist()]
        total = sum(weights)
        return self.choose([(w / total, i) for i, w in enumerate(weights) if w])


def branches(run: Callable[[Script], object]) -> Iterator[tuple[Fraction, object]]:
    """The results of all runs, and their weights."""
    pending: list[list[int]] = [[]]
    while pending:
        script = Script(pending.pop())
        result = run(script)
        yield script.weight, result
        pending += script.alternatives


class EnumeratedNoise:
    """Stands in for ``Noise`` and its streams."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._states: set[State] = set()

    def race(
        self, scores: torch.Tensor, vocabulary: Vocabulary, states: torch.Tensor
    ) -> torch.Tensor:
        drawn = []
        for row, (offset, zero_byte_tokens) in zip(scores, states.tolist(), strict=True):
            state = State(offset, zero_byte_tokens)
            if state in self._states:
                raise RevisitedError(f"a second race at {state}")
            self._states.add(state)
            drawn.append(self._script.draw(torch.softmax(row[: len(vocabulary)], 0)))
        return torch.tensor(drawn)

    def stream(self, purpose: str) -> EnumeratedNoise:
        return self

    def draw(self, distribution: torch.Tensor) -> torch.Tensor:
        return torch.tensor([self._script.draw(distribution[0])])

    def uniforms(self, count: int) -> torch.Tensor:
        return torch.full((count,), torch.nan, dtype=torch.float64)  # ``Verdicts`` knows better


Verify = Callable[..., ops.Verification]


class Verdicts:
    """Stands in for ``ops.verify``: asks it for every cell of the uniforms, and takes one."""

    def __init__(self, verify: Verify = ops.verify) -> None:
        self._verify = verify
        self._known: dict[tuple, list] = {}
        self.script: Script | None = None

    def __call__(self, ids, *, uniforms, **probs) -> ops.Verification:
        key = tuple(
            (name, tuple(value.flatten().tolist()))
            for name, value in (("ids", ids), *probs.items())
            if value is not None
        )
        if key not in self._known:

            def outcome(*at: int) -> tuple[int, int]:
                u = torch.tensor([at], dtype=torch.float64) / FINEST
                result = self._verify(ids, uniforms=u, **probs)
                return int(result.accepted), int(result.tokens[0, int(result.accepted)])

            self._known[key] = cells(outcome, ids.shape[1])
        at = self.script.choose(self._known[key])
        u = torch.tensor([at], dtype=torch.float64) / FINEST
        return self._verify(ids, uniforms=u, **probs)


def cells(outcome: Callable, length: int) -> list[tuple[Fraction, tuple[int, ...]]]:
    """Weights and representatives of the cells of ``length + 1`` uniforms with one outcome each.

    Uniform i decides on token i alone and accepts it below some threshold; the last draws a token,
    in the order of their ids.
    """
    found = []
    reached = Fraction(1)

    def draws(weight: Fraction, decided: tuple[int, ...]) -> None:
        start = 0
        while start < FINEST:
            token = outcome(*decided, start)
            end = first_false(lambda u, token=token: outcome(*decided, u) == token, start)
            found.append((weight * Fraction(end - start, FINEST), (*decided, start)))
            start = end

    for i in range(length):
        rest = (0,) * (length - i)
        threshold = first_false(lambda u, i=i, rest=rest: outcome(*(0,) * i, u, *rest)[0] > i, -1)
        if threshold < FINEST:
            refused = reached * Fraction(FINEST - threshold, FINEST)
            draws(refused, (*(0,) * i, threshold, *(0,) * (length - i - 1)))
        if threshold == 0:
            return found
        reached *= Fraction(threshold, FINEST)
    draws(reached, (0,) * length)
    return found


def first_false(holds: Callable[[int], bool], true: int) -> int:
    """The least integer above ``true``, up to FINEST, at which a falling condition fails."""
    false = FINEST
    while false - true > 1:
        middle = (true + false) // 2
        if holds(middle):
            true = middle
        else:
            false = middle
    return false


def enumerated(
    method: methods.Method,
    target: Gram,
    vocabulary: Vocabulary,
    drafter,
    *,
    remaining: int = 3,
    policy: DraftLength | None = None,
    draft_length: int = 2,
    verify: Verify = ops.verify,
    observe: Callable[[Fraction], None] = lambda weight: None,
    **options,
) -> Distribution:
    """Distribution of the tokens that the real loop emits, over all its random choices.

    ``observe`` is called after each run with the run's weight. ``options`` are those of the loop.
    """
    verdicts = Verdicts(verify)

    def run(script: Script) -> tuple[int, ...]:
        verdicts.script = script
        new = toys.decode(
            target,
            vocabulary,
            drafter,
            method=method,
            noise=EnumeratedNoise(script),
            remaining=remaining,
            draft_length=draft_length,
            policy=policy,
            **options,
        )
        return tuple(new)

    distribution: Distribution = defaultdict(Fraction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "verify", verdicts)
        for weight, new in branches(run):
            distribution[new] += weight
            observe(weight)
    assert sum(distribution.values()) == 1
    return distribution


def distance(left: Distribution, right: Distribution) -> float:
    """Greatest difference of two distributions."""
    return float(
        max(abs(left.get(key, 0) - right.get(key, 0)) for key in left.keys() | right.keys())
    )
