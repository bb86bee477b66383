"""The terminal view of models: the table of known models, and progress bars of a pull."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Group, RenderableType
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
from tokentiming.cli.views import console
from tokentiming.cli.views.text import plain, safe


def models_table(rows: Sequence[tuple[ModelSpec, Mapping[str, Any] | None]]) -> RenderableType:
    """The known models, each with its cached manifest or None, followed by their sources."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for heading in ("name", "parameters", "download", "licence", "cached"):
        right = heading in ("parameters", "download")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    sources: list[RenderableType] = []
    for spec, manifest in rows:
        wheels = f"{len(spec.wheels)} wheel" + ("s" if len(spec.wheels) > 1 else "")
        source = plain(f"{spec.hub}, or {wheels} (4-bit GGUF converted to bf16)", "dim")
        cached = plain("no", "dim")
        if manifest:
            size = sum(entry["size"] for entry in manifest["files"].values())
            cached = plain(f"{size / 1e6:,.0f} MB", "green")
            converted = " (GGUF converted to bf16)" if "gguf_sha256" in manifest else ""
            source = plain(f"{manifest['source']}{converted}\n{manifest['path']}")
        sources += [plain(spec.short, "bold"), Padding(source, (0, 0, 0, 2))]
        table.add_row(
            plain(spec.short, "bold"),
            spec.parameters,
            f"{spec.gguf_size / 1e6:,.0f} MB",
            spec.license,
            cached,
        )
    return Group(table, *sources)


class PullBars:
    """Draws the progress that `demo_models.pull` reports, one bar for each stage."""

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
        bars = Progress(*columns, console=console.messages())
        try:
            yield cls(bars)
        finally:
            if bars.live.is_started:  # stopping bars that never started prints an empty line
                bars.stop()

    def __call__(self, progress: PullProgress) -> None:
        self._bars.start()  # only once there is something to draw
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
