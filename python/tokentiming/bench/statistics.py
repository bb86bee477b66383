"""Statistics of the benchmark: pure functions of numbers and ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""Coverage of the intervals."""

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A geometric mean and its confidence interval."""

    mean: float
    low: float | None = None
    """None for a single value, which shows no spread."""
    high: float | None = None


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of at least one positive number.

    Raises:
        ValueError: there is no value, or one is not positive.

    Example:
        >>> geometric_mean([1.0, 4.0])
        2.0
    """
    return float(np.exp(_logs(values, "geometric_mean").mean()))


def bootstrap(values: Sequence[float], *, level: float = LEVEL, seed: int = 0) -> Interval:
    """The geometric mean with the percentile interval of a bootstrap.

    Args:
        values: positive, one for each prompt; the prompts are resampled.
        level: coverage of the interval.
        seed: of the resampling, so that a table can be made again.

    Raises:
        ValueError: as in ``geometric_mean``.

    Source: Efron, Bootstrap methods: another look at the jackknife, 1979.

    Example:
        >>> bootstrap([2.0, 2.0, 2.0])
        Interval(mean=2.0, low=2.0, high=2.0)
    """
    logs = _logs(values, "bootstrap")
    mean = float(np.exp(logs.mean()))
    if len(logs) == 1:
        return Interval(mean)
    drawn = np.random.default_rng(seed).integers(len(logs), size=(_RESAMPLES, len(logs)))
    tail = (1 - level) / 2
    low, high = np.exp(np.quantile(logs[drawn].mean(1), [tail, 1 - tail]))
    return Interval(mean, float(low), float(high))


def _logs(values: Sequence[float], caller: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or not (array > 0).all():
        raise ValueError(f"{caller}: values are {list(values)}; give at least one, all positive")
    return np.log(array)


def loops(ids: Sequence[int], *, copies: int = 3, least: int = 12) -> bool:
    """Whether a text ends in copies of one n-gram.

    Such a text is easy to draft and of no use, so it is reported separately.

    Args:
        ids: of the generated tokens.
        copies: minimum number of consecutive copies of the n-gram.
        least: minimum number of tokens that all copies cover.

    Example:
        >>> loops([7, 8] + 6 * [1, 2])
        True
        >>> loops(6 * [1, 2] + [7, 8])
        False
    """
    ids = list(ids)
    for n in range(1, len(ids) // copies + 1):
        span = max(copies * n, least)
        if span <= len(ids) and ids[-span:-n] == ids[len(ids) - span + n :]:
            return True
    return False
