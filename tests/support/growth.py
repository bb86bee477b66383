"""The growth of resident memory over many calls."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

CALLS = 200_000  # a leak of one Python object, or one malloc, a call is megabytes
ALLOWED = 2**20

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="resident memory is read in /proc"
)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(call: Callable[[], object], calls: int) -> int:
    """Bytes by which this process grows over ``calls`` calls, after some that are not counted.

    The least of three measurements: a leak is in each of them, memory that an allocator moves for
    others is not.
    """
    for _ in range(calls // 20):
        call()
    found: list[int] = []
    for _ in range(3):
        gc.collect()
        before = resident()
        for _ in range(calls):
            call()
        gc.collect()
        found.append(resident() - before)
        if found[-1] < ALLOWED:
            break
    return min(found)
