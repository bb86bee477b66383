"""Timing several ways of doing one thing against each other."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

SAMPLE_SECONDS = 2e-3
"""Shorter calls are repeated until a sample takes this long, far above the clock's own cost."""


@dataclass(frozen=True)
class Seconds:
    """Seconds a call: the median of all samples, and the quartiles around it."""

    median: float
    low: float
    high: float

    def __truediv__(self, count: int) -> Seconds:
        return Seconds(self.median / count, self.low / count, self.high / count)


def interleaved(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Seconds]:
    """Time each way once a round, in turn, so that what else the machine does meets all alike."""
    calls = {name: _calls_a_sample(run) for name, run in ways.items()}
    samples: dict[str, list[float]] = {name: [] for name in ways}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in ways.items():
                samples[name].append(_sample(run, calls[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: summary(values) for name, values in samples.items()}


def copy_bandwidth(size: int = 256 << 20, rounds: int = 9) -> float:
    """Bytes a second, read and written ones counted alike, of a copy on all of torch's threads."""
    source = torch.ones(size, dtype=torch.uint8)
    target = torch.zeros(size, dtype=torch.uint8)
    seconds = [_sample(lambda: target.copy_(source), 1) for _ in range(rounds)]
    return 2 * size / statistics.median(seconds)


def _calls_a_sample(run: Callable[[], object]) -> int:
    calls = 1
    while (seconds := _sample(run, calls) * calls) < SAMPLE_SECONDS:
        calls = max(2 * calls, int(calls * SAMPLE_SECONDS / max(seconds, 1e-9)))
    return calls


def _sample(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def summary(samples: list[float]) -> Seconds:
    if len(samples) < 2:
        return Seconds(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Seconds(median, low, high)
