"""One operation on a GPU beside its peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gpu_timing import Run


@dataclass
class GpuCase:
    """Ways to do one thing, ours first: name, what to run, and whether a graph may hold it."""

    operation: str
    size: str
    ways: list[tuple[str, Run, bool]]
    check: Callable[[], None]
    """Raises where the ways disagree; of peers that others make, those that agree become ways."""
    sets: int
    least_bytes: float
    """What must be read or written at least once, a call."""
    instructions: float = 0.0
    """Of one lane, a call, where they and not memory are the bound."""
    missing: list[str] = field(default_factory=list)
    """Peers that do not run here or give something else, and why."""
