"""One operation beside its peers on one device, and how their results must agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

COLD_BYTES = 160 << 20  # several times the size of a processor's last cache

Run = Callable[[int], object]
"""Runs on the set of inputs of that number."""


@dataclass
class Case:
    """Ways to compute one thing, ours first."""

    operation: str
    size: str
    ways: dict[str, Run]
    check: Callable[[], None]
    """Raises if the ways disagree. Adds optional peers that agree to ``ways``, and those of them
    that no CUDA graph can capture to ``synchronizing``."""
    sets: int = 1
    """Sets of inputs. Every call takes the next, so that inputs come from memory and no cache."""
    least_bytes: float = 0.0
    """Bytes that must be read or written at least once in a call; 0 if memory is not the bound."""
    instructions: float = 0.0
    """Instructions of a lane in a call, if they are the bound on a GPU."""
    count: int = 1
    """How many things a call computes; times are divided by it."""
    yardsticks: frozenset[str] = frozenset()
    """Ways that compute something else, for scale."""
    synchronizing: set[str] = field(default_factory=set)
    """Ways that wait for the GPU, so that no CUDA graph can capture them."""
    missing: list[str] = field(default_factory=list)
    """Optional peers that do not run here or disagree, with the reason."""


class DisagreementError(AssertionError):
    """Two ways to compute one result gave two results."""


def require(holds: Any, what: str) -> None:
    if not holds:
        raise DisagreementError(what)


def cold_sets(size: int) -> int:
    """So many sets of inputs of ``size`` bytes that a set has left the cache when used again."""
    return max(2, -(-COLD_BYTES // size))
