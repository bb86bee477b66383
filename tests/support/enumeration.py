"""All paths through the random choices of the real loop, each with its exact probability.

A run requests random choices one after another. The first run takes the first option each time.
Each later run replays a prefix and then takes another option, until all paths have been visited.
The random parts are replaced: races and draws by branches weighted with the distribution, uniforms
by the intervals between the breakpoints of ``ops.verify``, which bisection finds in double.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from tests.support import toys
from tests.support.pairs import Distribution, Gram
from tokentiming import Vocabulary, methods, ops
from tokentiming.engine.budget import Budget

FINEST = 2**53
"""Uniforms are multiples of its inverse."""


class RevisitedError(AssertionError):
    """Noise was used twice."""


class Script:
    """The choices of one run: a given prefix, then the first option each time."""

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
    """Replaces ``Noise`` and its streams."""

    seed = row = 0

    def __init__(self, script: Script) -> None:
        self._script = script
        self._states: set[tuple[int, ...]] = set()
        self.draft = self.verify = self

    def race(
        self, scores: torch.Tensor, vocabulary: Vocabulary, states: torch.Tensor
    ) -> torch.Tensor:
        """Draw for each row.

        Rows of a tree are picked together, though only a path of them is emitted, so states may
        come again. A row by itself is emitted, and each of these has a state of its own.
        """
        drawn = []
        for row, state in zip(scores, map(tuple, states.tolist()), strict=True):
            if len(scores) == 1 and state in self._states:
                raise RevisitedError(f"a second race at {state}")
            if len(scores) == 1:
                self._states.add(state)
            drawn.append(self._script.draw(torch.softmax(row[: len(vocabulary)], 0)))
        return torch.tensor(drawn)

    def draw(self, distribution: torch.Tensor) -> torch.Tensor:
        return torch.tensor([self._script.draw(distribution[0])])

    def draws(self, scores: torch.Tensor, count: int) -> torch.Tensor:
        assert count == 1
        return self.draw(torch.softmax(scores, 1))[None]

    def uniforms(self, count: int) -> torch.Tensor:
        return torch.full((count,), torch.nan, dtype=torch.float64)  # ``Verdicts`` chooses cells


Verify = Callable[..., ops.Verification]


class Verdicts:
    """Replaces ``ops.verify`` on ragged chains: evaluates every cell, and chooses one per chain."""

    def __init__(self, verify: Verify = ops.verify) -> None:
        self._verify = verify
        self._known: dict[tuple, list] = {}
        self.script: Script | None = None

    def __call__(
        self,
        ids,
        *,
        uniforms,
        offsets,
        target_logits,
        draft_probs,
        draft_rows=None,
        draft_map=None,
    ) -> ops.Verification:
        mapped = {"draft_rows": draft_rows, "draft_map": draft_map}
        chosen: list[int] = []
        for b, (start, end) in enumerate(pairwise(offsets.tolist())):
            probs, of_chain = draft_probs, dict(mapped)
            if draft_rows is not None:
                of_chain["draft_rows"] = draft_rows[start:end]
            elif draft_probs is not None:
                probs = draft_probs[start:end]
            rows = target_logits[start + b : end + b + 1]
            chosen += self.script.choose(self._cells(ids[start:end], rows, probs, of_chain))
        return self._verify(
            ids,
            uniforms=torch.tensor(chosen, dtype=torch.float64) / FINEST,
            offsets=offsets,
            target_logits=target_logits,
            draft_probs=draft_probs,
            **mapped,
        )

    def _cells(self, ids, target_logits, draft_probs, mapped) -> list:
        """The cells of one chain."""
        key = tuple(
            None if value is None else tuple(value.flatten().tolist())
            for value in (ids, target_logits, draft_probs, mapped["draft_rows"])
        )
        if key not in self._known:

            def outcome(*at: int) -> tuple[int, int]:
                result = self._verify(
                    ids,
                    uniforms=torch.tensor(at, dtype=torch.float64) / FINEST,
                    offsets=torch.tensor([0, len(ids)]),
                    target_logits=target_logits,
                    draft_probs=draft_probs,
                    **mapped,
                )
                return int(result.accepted), int(result.tokens[0, int(result.accepted)])

            self._known[key] = cells(outcome, len(ids))
        return self._known[key]


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
    budget: Budget | None = None,
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
        texts = toys.decoding(
            target,
            vocabulary,
            drafter,
            method=method,
            noise=EnumeratedNoise(script),
            remaining=remaining,
            draft_length=draft_length,
            budget=budget,
            **options,
        )
        return tuple(token for text in texts for token in text.new)

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
