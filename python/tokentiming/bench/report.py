"""Figures of a benchmark's systems: ratios over the target alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tokentiming.bench.cells import (
    BASELINE,
    Cell,
    Prompts,
    by_prompts,
    by_system,
    proposed_per_pass,
    stats_of,
    target_alone,
)
from tokentiming.bench.records import Line
from tokentiming.bench.statistics import Interval, bootstrap, geometric_mean


@dataclass(frozen=True)
class Figures:
    """One system at one temperature. Ratios are speeds over the target alone."""

    system: str
    temperature: float
    exact: bool
    """Whether the emitted tokens have the target's own distribution."""
    ratio: Interval | None
    """None if no prompt ran through both."""
    without_loops: Interval | None
    """The ratio without the prompts where a text of either ends in a loop."""
    categories: dict[str, Interval]
    """The ratio by category of prompts."""
    rate: float
    """Tokens per second: the geometric mean over prompts."""
    tokens_per_forward: float
    """Tokens for each pass of the target and each prompt that runs in it."""
    proposed: float | None
    """Proposed tokens for each pass of the target and each text; None for systems that do not say.
    """
    prompts: int
    """Number of prompts, or of groups that ran together."""
    looping: int
    """Those of them where a text ends in a loop."""
    ties: int
    """Texts that differ from those of the target alone by rounding."""
    differing: int
    """Texts that differ for another reason; they can only be those of a peer."""
    failures: list[str] = field(default_factory=list)
    """Distinct errors of a peer."""

    @property
    def lowest(self) -> tuple[str, Interval] | None:
        """The category with the lowest ratio."""
        return min(self.categories.items(), key=lambda item: item[1].mean, default=None)


def figures(lines: Sequence[Line], over: Sequence[str] = BASELINE) -> list[Figures]:
    """Figures of each system at each temperature, in the order of the runs.

    Args:
        lines: runs of one file.
        over: names of the systems that ratios compare with. At each temperature it is the one that
            is fastest over the prompts that all of them ran.

    Raises:
        ValueError: no run is of these systems.
    """
    if not {line["system"] for line in lines} & set(over):
        known = dict.fromkeys(line["system"] for line in lines)
        raise ValueError(
            f"figures: over is {', '.join(over)}, and no run is of it; "
            f"choose among {', '.join(known) or 'systems that ran'}"
        )
    reference = target_alone(lines, over)
    return [
        _figures(system, temperature, group, reference[temperature])
        for (temperature, system), group in by_system(lines).items()
    ]


def _figures(
    system: str, temperature: float, lines: Sequence[Line], reference: dict[Prompts, Cell]
) -> Figures:
    cells = by_prompts(lines)
    ratios: dict[Prompts, float] = {}
    looping: set[Prompts] = set()
    for prompts, cell in cells.items():
        other = reference.get(prompts)
        if other:
            ratios[prompts] = other.seconds / cell.seconds
        if cell.looping or (other and other.looping):
            looping.add(prompts)
    categories: dict[str, list[float]] = defaultdict(list)
    for prompts, ratio in ratios.items():
        categories[cells[prompts].category].append(ratio)
    timed = [line for cell in cells.values() for line in cell.lines]
    first = [cell.lines[0] for cell in cells.values()]
    differences = [one for line in first for one in line["differences"] if one is not None]
    passes = sum(line["forwards"] * len(line["prompts"]) for line in timed)
    return Figures(
        system=system,
        temperature=temperature,
        exact=all(stats["exact"] for stats in stats_of(lines)),
        ratio=_interval(ratios.values()),
        without_loops=_interval(r for prompts, r in ratios.items() if prompts not in looping),
        categories={name: bootstrap(values) for name, values in categories.items()},
        rate=geometric_mean([1 / cell.seconds for cell in cells.values()]) if cells else 0.0,
        tokens_per_forward=sum(line["tokens"] for line in timed) / passes if passes else 0.0,
        proposed=proposed_per_pass(lines),
        prompts=len(cells),
        looping=len(looping),
        ties=sum(one["tie"] for one in differences),
        differing=sum(not one["tie"] for one in differences),
        failures=list(dict.fromkeys(line["error"] for line in lines if "error" in line)),
    )


def _interval(values: Iterable[float]) -> Interval | None:
    listed = list(values)
    return bootstrap(listed) if listed else None
