"""Figures of a benchmark's runs: ratios over the target alone, stages, acceptance by depth."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tokentiming.bench.records import Line
from tokentiming.bench.statistics import Interval, bootstrap, geometric_mean
from tokentiming.bench.systems import ALONE, GENERATE

BASELINE = (GENERATE, ALONE)
"""The faster of these, over all prompts, is the target alone."""

REST = "rest"
"""Bookkeeping: what no stage counts."""


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


Prompts = tuple[str, ...]
"""Names of the prompts of a run."""


@dataclass
class _Cell:
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


def figures(lines: Sequence[Line], over: Sequence[str] = BASELINE) -> list[Figures]:
    """Figures of each system at each temperature, in the order of the runs.

    Args:
        lines: runs of one file.
        over: names of the systems that ratios compare with. At each temperature it is the one that
            is fastest over the prompts that all of them ran. The fastest at each prompt would be
            the one that was disturbed least.

    Raises:
        ValueError: no run is of these systems.
    """
    if not {line["system"] for line in lines} & set(over):
        known = dict.fromkeys(line["system"] for line in lines)
        raise ValueError(
            f"figures: over is {', '.join(over)}, and no run is of it; "
            f"choose among {', '.join(known) or 'systems that ran'}"
        )
    groups = _grouped(lines)
    found = []
    for (temperature, system), group in groups.items():
        base = [_cells(groups.get((temperature, name), [])) for name in over]
        found.append(_figures(system, temperature, group, _fastest(base)))
    return found


def _fastest(systems: Sequence[dict[Prompts, _Cell]]) -> dict[Prompts, _Cell]:
    """The runs of the system that is fastest over the prompts that all systems ran."""
    ran = [cells for cells in systems if cells]
    shared = set(ran[0]).intersection(*ran) if ran else set()
    if not shared:
        return max(ran, key=len, default={})
    return min(ran, key=lambda cells: geometric_mean([cells[one].seconds for one in shared]))


def _figures(
    system: str, temperature: float, lines: Sequence[Line], reference: dict[Prompts, _Cell]
) -> Figures:
    cells = _cells(lines)
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
        exact=all(stats["exact"] for stats in _stats(lines)),
        ratio=_interval(ratios.values()),
        without_loops=_interval(r for prompts, r in ratios.items() if prompts not in looping),
        categories={name: bootstrap(values) for name, values in categories.items()},
        rate=geometric_mean([1 / cell.seconds for cell in cells.values()]) if cells else 0.0,
        tokens_per_forward=sum(line["tokens"] for line in timed) / passes if passes else 0.0,
        proposed=_proposed(lines),
        prompts=len(cells),
        looping=len(looping),
        ties=sum(one["tie"] for one in differences),
        differing=sum(not one["tie"] for one in differences),
        failures=list(dict.fromkeys(line["error"] for line in lines if "error" in line)),
    )


def _proposed(lines: Iterable[Line]) -> float | None:
    """Proposed tokens for each pass and text."""
    stats = list(_stats(lines))
    rounds = sum(sum(one["accepted_per_round"].values()) for one in stats)
    return sum(one["proposed"] for one in stats) / rounds if rounds else None


def stages(lines: Sequence[Line]) -> dict[tuple[float, str], dict[str, float]]:
    """Seconds per token in each stage, by temperature and system; ``REST`` is the remainder.

    Systems without statistics, which are those of transformers, are left out.
    """
    found = {}
    for key, group in _grouped(lines).items():
        stats = list(_stats(group))
        if stats:
            parts = [one["stage_seconds"] for one in stats]
            sums = {name: sum(part[name] for part in parts) for name in parts[0]}
            # Texts of a batch share their passes, so that their times add up to more than the run.
            total = sum(one["seconds"] for one in stats)
            sums[REST] = max(total - sum(sums.values()), 0.0)
            seconds = sum(line["seconds"] for line in group)
            tokens = sum(line["tokens"] for line in group)
            found[key] = {name: part / total * seconds / tokens for name, part in sums.items()}
    return found


def acceptance(lines: Sequence[Line]) -> dict[tuple[float, str], list[float]]:
    """Share of rounds that accept at least 1, 2, ... proposed tokens, by temperature and system.

    Systems that accepted no token are left out.
    """
    found = {}
    for key, group in _grouped(lines).items():
        rounds: dict[int, int] = defaultdict(int)
        for stats in _stats(group):
            for accepted, count in stats["accepted_per_round"].items():
                rounds[int(accepted)] += count  # JSON has made the number a string
        total = sum(rounds.values())
        depths = range(1, max(rounds, default=0) + 1)
        if depths:
            found[key] = [sum(rounds[n] for n in rounds if n >= d) / total for d in depths]
    return found


def sources(lines: Sequence[Line]) -> dict[tuple[float, str], dict[str, float]]:
    """Tokens per pass of the target and text, by temperature and system, and by who proposed them.

    The token that the target itself adds in each pass counts as the target's. Systems without
    drafters are left out, and files that do not tell drafters apart.
    """
    found = {}
    for key, group in _grouped(lines).items():
        names = key[1].partition("/")[2].split("+")
        accepted = dict.fromkeys(names, 0)
        rounds = 0
        for stats in _stats(group):
            rounds += sum(stats["accepted_per_round"].values())
            for drafter, count in stats.get("accepted_from", {}).items():
                accepted[names[int(drafter)]] += count  # JSON has made the number a string
        if sum(accepted.values()):
            found[key] = {"target": 1.0} | {n: count / rounds for n, count in accepted.items()}
    return found


def _grouped(lines: Iterable[Line]) -> dict[tuple[float, str], list[Line]]:
    """Runs by temperature and system."""
    groups: dict[tuple[float, str], list[Line]] = defaultdict(list)
    for line in lines:
        groups[line["temperature"], line["system"]].append(line)
    return groups


def _cells(lines: Iterable[Line]) -> dict[Prompts, _Cell]:
    """Runs by prompts, those that failed left out."""
    cells: dict[Prompts, _Cell] = {}
    for line in lines:
        if "error" not in line:
            cells.setdefault(tuple(line["prompts"]), _Cell(line["category"])).lines.append(line)
    return cells


def _stats(lines: Iterable[Line]) -> Iterator[Line]:
    for line in lines:
        yield from line.get("stats", ())


def _interval(values: Iterable[float]) -> Interval | None:
    listed = list(values)
    return bootstrap(listed) if listed else None
