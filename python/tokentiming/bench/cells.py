"""Runs of a benchmark by temperature, system and prompts."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tokentiming.bench.records import Line
from tokentiming.bench.statistics import geometric_mean
from tokentiming.bench.systems import ALONE, GENERATE

BASELINE = (GENERATE, ALONE)
"""The faster of these, over all prompts, is the target alone."""

Prompts = tuple[str, ...]
"""Names of the prompts of a run."""


@dataclass
class Cell:
    """All runs of some prompts through one system at one temperature."""

    category: str
    lines: list[Line] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Per token; the median of the repeats."""
        each = [float(line["seconds"] / line["tokens"]) for line in self.lines]
        return statistics.median(each)

    @property
    def looping(self) -> bool:
        return any(any(line["loops"]) for line in self.lines)


def by_system(lines: Iterable[Line]) -> dict[tuple[float, str], list[Line]]:
    """Runs by temperature and system."""
    groups: dict[tuple[float, str], list[Line]] = defaultdict(list)
    for line in lines:
        groups[line["temperature"], line["system"]].append(line)
    return groups


def by_prompts(lines: Iterable[Line]) -> dict[Prompts, Cell]:
    """Runs by prompts, those that failed left out."""
    cells: dict[Prompts, Cell] = {}
    for line in lines:
        if "error" not in line:
            cells.setdefault(tuple(line["prompts"]), Cell(line["category"])).lines.append(line)
    return cells


def stats_of(lines: Iterable[Line]) -> Iterator[Line]:
    for line in lines:
        yield from line.get("stats", ())


def target_alone(
    lines: Sequence[Line], over: Sequence[str] = BASELINE
) -> dict[float, dict[Prompts, Cell]]:
    """Runs that others are compared with, by temperature.

    They are those of one system at each temperature: the fastest over the prompts that all of
    ``over`` ran. The fastest at each prompt would be the one that was disturbed least.
    """
    groups = by_system(lines)
    return {
        temperature: _fastest([by_prompts(groups.get((temperature, name), [])) for name in over])
        for temperature, _ in groups
    }


def _fastest(systems: Sequence[dict[Prompts, Cell]]) -> dict[Prompts, Cell]:
    """The runs of the system that is fastest over the prompts that all systems ran."""
    ran = [cells for cells in systems if cells]
    shared = set(ran[0]).intersection(*ran) if ran else set()
    if not shared:
        return max(ran, key=len, default={})
    return min(ran, key=lambda cells: geometric_mean([cells[one].seconds for one in shared]))


def proposed_per_pass(lines: Iterable[Line]) -> float | None:
    """Proposed tokens for each pass and text."""
    stats = list(stats_of(lines))
    rounds = sum(sum(one["accepted_per_round"].values()) for one in stats)
    return sum(one["proposed"] for one in stats) / rounds if rounds else None
