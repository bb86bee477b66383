"""Timing runs of seconds on a machine with other work."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

import timing

Result = TypeVar("Result")


class Clock:
    """Times runs, and repeats those that were disturbed.

    Args:
        steady: least share of the best memory bandwidth measured, before and after a run.
        retries: how often a run with less is repeated.
        device: the device of that memory; on a GPU a run ends when the device has finished.
    """

    def __init__(self, steady: float, retries: int, device: torch.device) -> None:
        self._steady = steady
        self._retries = retries
        self._bandwidth = partial(timing.copy_bandwidth, device.type, 256 << 20, 9)
        self._settle: Callable[[], None] = lambda: None
        if device.type == "cuda":
            self._settle = torch.cuda.synchronize
        self._best = max(self._bandwidth() for _ in range(5))
        self.disturbed = 0
        """Runs that were done again, or kept disturbed when there were no retries left."""

    def time(self, run: Callable[[], Result]) -> tuple[Result, float]:
        """The result of a run, and its seconds."""
        for attempt in range(self._retries + 1):
            before = self._bandwidth()
            start = time.perf_counter()
            result = run()
            self._settle()
            seconds = time.perf_counter() - start
            least = min(before, self._bandwidth())
            self._best = max(self._best, before)
            if least >= self._steady * self._best:
                break
            self.disturbed += 1
            if attempt < self._retries:
                time.sleep(5)
        return result, seconds
