"""The choice of nodes finds the optimum that trying all choices finds."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentiming.engine.choice import best_rows, worth_growing

seconds = st.floats(0.01, 10)
probs = st.lists(st.lists(st.floats(0, 1), max_size=6), min_size=1, max_size=4)


def rate_of(probs: list[list[float]], rows: int, start: float, row: float) -> float:
    tokens = sum(1 + sum(sorted(of_text, reverse=True)[:rows]) for of_text in probs)
    return tokens / (start + rows * row * len(probs))


@given(probs, seconds, st.floats(0, 2), st.integers(0, 6))
def test_rows_have_the_highest_rate(probs, start, row, most):
    found = best_rows(probs, seconds=start, row=row, most=most)
    rates = [rate_of(probs, rows, start, row) for rows in range(most + 1)]
    assert found.rate == pytest.approx(max(rates))
    assert found.rate == pytest.approx(rates[found.rows])


def subsets(nodes):
    return chain.from_iterable(combinations(nodes, n) for n in range(len(nodes) + 1))


gains = st.lists(
    st.lists(st.floats(0, 1), max_size=4).map(lambda values: dict(enumerate(values))),
    min_size=1,
    max_size=2,
)


@given(gains, st.floats(0.1, 5), st.floats(0, 0.5), st.floats(0, 0.5), st.integers(1, 4))
def test_growing_gains_most_beyond_its_cost(gains, rate, level, row, widest):
    grown = worth_growing(gains, rate=rate, level=level, row=row, widest=widest)

    def profit(chosen) -> float:
        nodes = sum(map(len, chosen))
        gain = sum(of_text[n] for of_text, kept in zip(gains, chosen, strict=True) for n in kept)
        return gain - rate * (level + nodes * row) if nodes else 0.0

    tried = [[]]
    for of_text in gains:
        kept = [subset for subset in subsets(of_text) if len(subset) <= widest]
        tried = [[*before, subset] for before in tried for subset in kept]
    assert profit(grown) == pytest.approx(max(map(profit, tried)), abs=1e-9)
    assert all(nodes == sorted(nodes) for nodes in grown)
