"""One operation beside its peers, and how their results must agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

COLD_BYTES = 160 << 20  # several times a processor's last cache


@dataclass
class Case:
    """Ways to do one thing, ours first."""

    operation: str
    size: str
    ways: dict[str, Callable[[], object]]
    check: Callable[[], None]
    """Raises where the ways disagree."""
    least_bytes: int = 0
    """What must be read or written at least once; 0 where memory is not the bound."""
    count: int = 1
    """How many of the things named are done in a call."""
    yardsticks: frozenset[str] = field(default_factory=frozenset)
    """Ways that do something else, for scale."""


class DisagreementError(AssertionError):
    """Two ways to one result gave two results."""


def require(holds: Any, what: str) -> None:
    if not holds:
        raise DisagreementError(what)


def cold(make: Callable[[int], Any], size: int) -> list[Any]:
    """Enough sets of inputs of `size` bytes that a set has left the cache when its turn comes."""
    return [make(seed) for seed in range(max(2, -(-COLD_BYTES // size)))]
