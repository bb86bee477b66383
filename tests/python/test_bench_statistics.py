"""Statistics of the benchmark: means, intervals and loops."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentiming.bench import statistics
from tokentiming.bench.statistics import bootstrap, geometric_mean, loops


def test_examples() -> None:
    failed, attempted = doctest.testmod(statistics)
    assert attempted >= 4
    assert not failed


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9))
def test_the_geometric_mean_is_the_root_of_the_product(values: list[float]) -> None:
    expected = math.prod(values) ** (1 / len(values))
    assert geometric_mean(values) == pytest.approx(expected)
    assert bootstrap(values).mean == pytest.approx(expected)


@pytest.mark.parametrize("function", [geometric_mean, bootstrap])
@pytest.mark.parametrize("values", [[], [1.0, 0.0], [1.0, -2.0], [math.nan]])
def test_values_must_be_positive(function, values: list[float]) -> None:
    with pytest.raises(ValueError, match=f"^{function.__name__}: values are .*; give at least one"):
        function(values)


def test_a_single_value_has_no_interval() -> None:
    found = bootstrap([1.5])
    assert (found.mean, found.low, found.high) == (pytest.approx(1.5), None, None)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Log-normal ratios around a known mean; the bootstrap is a little narrow at 40 values."""
    draws = np.random.default_rng(0)
    true, samples = 1.7, 300
    covered = {0.8: 0, 0.95: 0}
    for _ in range(samples):
        values = true * np.exp(draws.normal(0, 0.4, 40))
        for level in covered:
            found = bootstrap(values.tolist(), level=level)
            assert found.low < found.mean < found.high
            covered[level] += found.low <= true <= found.high
    for level, count in covered.items():
        deviation = math.sqrt(level * (1 - level) / samples)
        assert level - 0.02 - 3 * deviation < count / samples < level + 3 * deviation


def test_the_interval_is_the_same_each_time() -> None:
    values = np.random.default_rng(0).uniform(1, 3, 30).tolist()
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values) != bootstrap(values, seed=1)


def slow_loops(ids: list[int], copies: int, least: int) -> bool:
    """Cuts the text into blocks from its end, and counts equal ones."""
    for n in range(1, len(ids) + 1):
        block = ids[len(ids) - n :]
        covered = 0
        while covered < len(ids) and ids[-1 - covered] == block[-1 - covered % n]:
            covered += 1
        if covered >= copies * n and covered >= least:
            return True
    return False


@given(
    st.lists(st.integers(0, 2), max_size=6),
    st.lists(st.integers(0, 2), min_size=1, max_size=5),
    st.integers(0, 6),
    st.integers(1, 4),
    st.integers(0, 14),
)
def test_loops_beside_a_slow_twin(start, block, times, copies, least) -> None:
    ids = start + block * times
    assert loops(ids, copies=copies, least=least) == slow_loops(ids, copies, least)


def test_a_text_that_leaves_its_loop_does_not_count() -> None:
    assert loops([5, 6, 7] * 8)
    assert not loops([5, 6, 7] * 8 + [9])
    assert not loops([5, 6, 7] * 3), "too short to tell"
    assert not loops([])
