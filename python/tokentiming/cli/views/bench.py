"""The terminal view of a benchmark: a progress bar, and tables of figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from tokentiming.bench.cells import BASELINE
from tokentiming.bench.records import Line
from tokentiming.bench.report import Figures
from tokentiming.bench.run import Step
from tokentiming.bench.statistics import Interval
from tokentiming.cli.views import console
from tokentiming.cli.views.text import plain, safe


class RunBar:
    """A bar that advances with each run."""

    def __init__(self, bars: Progress, total: int) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=total)
        self._begun = 0

    @classmethod
    @contextmanager
    def shown(cls, total: int) -> Iterator[RunBar]:
        """Show a bar of so many runs until the block ends."""
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", style="dim", markup=False),
        )
        with Progress(*columns, console=console.messages()) as bars:
            bar = cls(bars, total)
            yield bar
            bars.update(bar._task, completed=total, description="")

    def __call__(self, step: Step) -> None:
        """A run begins; the one before it has ended."""
        names = ", ".join(prompt.name for prompt in step.prompts)
        description = safe(f"T = {step.temperature:g}, {step.system.name}: {names}")
        self._bars.update(self._task, completed=self._begun, description=description)
        self._begun += 1


def tables(header: Line, found: Sequence[Figures], over: Sequence[str]) -> RenderableType:
    """All figures of one file: for each temperature, systems and then categories.

    Args:
        header: of the file.
        found: what ``report.figures`` returned.
        over: the systems that ratios compare with.
    """
    run = header["arguments"]
    title = "{target} with {draft}, {dtype}, {length} tokens".format_map(run)
    parts: list[RenderableType] = [Text(), plain(title, "bold"), plain(header["processor"], "dim")]
    for temperature, group in groupby(found, key=lambda one: one.temperature):
        systems = list(group)
        name = f"T = {temperature:g}" if temperature else "greedy"
        parts += [Text(), plain(name, "bold"), _systems(systems)]
        compared = [one for one in systems if one.system not in over and one.ratio]
        if compared:
            parts += [_categories(compared), *_notes(compared)]
        parts += [
            plain(f"{one.system} failed: {failure}", "yellow")
            for one in systems
            for failure in one.failures
        ]
    base = "the target alone" if set(over) == set(BASELINE) else ", ".join(over)
    legend = [
        "tokens: per pass of the target and text",
        f"ratio: speed over {base}, geometric mean over prompts and its 95% interval",
    ]
    if any(one.looping for one in found):
        legend.append("no loops: without prompts whose text ends in a loop; loops: their number")
    return Group(*parts, *(plain(line, "dim") for line in legend))


def _systems(systems: Sequence[Figures]) -> Table:
    looping = any(one.looping for one in systems)
    headings = ["tokens/s", "tokens", "ratio", *["no loops", "loops"] * looping]
    table = _table("system", *headings, *["ids"] * (not systems[0].temperature))
    for one in systems:
        cells = [f"{one.rate:.2f}", f"{one.tokens_per_forward:.2f}", _written(one.ratio)]
        if looping:
            cells += [_written(one.without_loops), f"{one.looping} of {one.prompts}"]
        if not one.temperature:
            cells.append(_ids(one))
        table.add_row(plain(one.system if one.exact else f"{one.system} (approximate)"), *cells)
    return table


def _categories(systems: Sequence[Figures]) -> Table:
    table = _table("category", *(one.system for one in systems))
    for name in dict.fromkeys(name for one in systems for name in one.categories):
        cells = [_written(one.categories.get(name)) for one in systems]
        table.add_row(plain(name), *cells)
    return table


def _notes(systems: Sequence[Figures]) -> Iterator[Text]:
    for one in systems:
        if one.lowest is not None:
            category, interval = one.lowest
            yield plain(f"{one.system}: lowest category {category}, {_written(interval)}", "dim")


def _table(first: str, *headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(plain(heading), justify="right", overflow="fold")
    return table


def _written(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.2f}"
    return f"{interval.mean:.2f} ({interval.low:.2f}-{interval.high:.2f})"


def _ids(one: Figures) -> str:
    """How greedy ids compare with those of the target alone."""
    parts = [f"{one.ties} by rounding"] * bool(one.ties)
    parts += [f"{one.differing} differ"] * bool(one.differing)
    return ", ".join(parts) or "same"
