"""What the terminal shows of a generation: streamed text, side by side, and the figures."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from tokentiming.cli import display
from tokentiming.cli.demo import Comparison, Watcher
from tokentiming.cli.text import plain, safe
from tokentiming.engine.stats import STAGES, Stats

ACCEPTED = "bold green"


class StreamedText:
    """Text that grows by bytes, each stretch in a style, fit for a terminal."""

    def __init__(self) -> None:
        self.text = Text(overflow="fold")  # Chinese has no blanks to wrap at
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")

    def append(self, data: bytes, style: str = "", *, final: bool = False) -> str:
        """Add bytes; returns the characters that they complete."""
        characters = safe(self._decoder.decode(data, final))
        self.text.append(characters, style)
        return characters


class Printed:
    """Standard output as it grows: the bytes as they are, or on a terminal safe, coloured text."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_terminal = console.file.isatty()
        self._streamed = StreamedText()

    def append(self, data: bytes, style: str = "") -> None:
        if self._is_terminal:
            self._show(self._streamed.append(data, style), style)
        else:
            typer.echo(data, nl=False)

    def end(self) -> None:
        """End the last line where somebody reads it; a file or a pipe gets no byte more."""
        if self._is_terminal:
            self._show(self._streamed.append(b"", final=True) + "\n")
        elif display.messages().is_terminal:
            display.messages().print()

    def _show(self, characters: str, style: str = "") -> None:
        # A segment is printed as it is; all else that rich prints has its tabs expanded.
        segment = Segment(characters, self._console.get_style(style or "none"))
        self._console.print(Segments([segment]), end="", soft_wrap=True)


class SideBySide(Watcher):
    """Two panels: the target alone, and with a draft, whose accepted tokens are coloured."""

    def __init__(self, title: str, live: Live) -> None:
        self._title = title
        self._live = live
        self._alone = StreamedText()
        self._speculative = StreamedText()

    @classmethod
    @contextmanager
    def shown(cls, title: str, console: Console) -> Iterator[SideBySide]:
        with Live(console=console, refresh_per_second=8, vertical_overflow="visible") as live:
            side_by_side = cls(title, live)
            yield side_by_side
            side_by_side.end()

    def alone(self, data: bytes) -> None:
        self._alone.append(data)
        self._draw()

    def speculative(self, data: bytes, accepted: bool) -> None:
        self._speculative.append(data, ACCEPTED if accepted else "")
        self._draw()

    def end(self) -> None:
        """Show the half of a character that nothing completed."""
        for streamed in (self._alone, self._speculative):
            streamed.append(b"", final=True)
        self._draw()

    def _draw(self) -> None:
        columns = Table.grid(expand=True, padding=(0, 1))
        columns.add_column(ratio=1)
        columns.add_column(ratio=1)
        columns.add_row(
            Panel(self._alone.text, title=plain(f"{self._title}: target alone"), box=box.ROUNDED),
            Panel(
                self._speculative.text,
                title=Text.assemble("with a draft (", ("accepted", ACCEPTED), ")"),
                box=box.ROUNDED,
            ),
        )
        self._live.update(columns)


def comparison_table(target: str, draft: str, rows: Sequence[Comparison]) -> RenderableType:
    """The figures of the demonstration, and where ids differ: two tables, each 60 columns wide."""
    speeds = _table(("prompt", "alone", "drafted", "ratio", "ids"))
    shares = _table(("prompt", "accepted", "per forward", "drafting", "target", "rest"))
    notes = [
        "alone, drafted: tokens per second; alone is the faster of generate and our loop",
        "accepted: share of what was proposed; per forward: tokens a pass of the target",
        "drafting, target, rest: shares of the time with a draft",
    ]
    for row in rows:
        stats = row.stats
        drafting, target_share = (stats.stage_seconds[s] for s in ("drafting", "target"))
        rest = stats.seconds - drafting - target_share
        speeds.add_row(
            plain(row.name),
            f"{row.alone:.2f}",
            f"{stats.tokens_per_second:.2f}",
            plain(f"{row.ratio:.2f}x", "bold"),
            "identical" if row.difference is None else f"differ at {row.difference.position}",
        )
        shares.add_row(
            plain(row.name),
            f"{stats.acceptance_rate:.0%}",
            f"{stats.tokens_per_forward:.2f}",
            *(f"{part / stats.seconds:.0%}" for part in (drafting, target_share, rest)),
        )
        if row.difference is not None:
            notes.append(
                f"{row.name}: after {row.difference.position} equal tokens two logits "
                f"{abs(row.difference.gap):.4f} apart decide the next one"
            )
    title = plain(f"{target} with {draft} as its draft", "bold")
    return Group(Text(), title, speeds, shares, *(plain(note, "dim") for note in notes))


def _table(headings: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for heading in headings:
        text = heading in ("prompt", "ids")
        table.add_column(heading, justify="left" if text else "right", overflow="fold")
    return table


def stats_lines(stats: Stats) -> RenderableType:
    """One generation's figures in a few lines."""
    rounds = " ".join(f"{n}:{count}" for n, count in sorted(stats.accepted_per_round.items()))
    shares = ", ".join(
        f"{stage} {stats.stage_seconds[stage] / stats.seconds:.0%}"
        for stage in STAGES
        if stats.stage_seconds[stage]
    )
    kind = "exact" if stats.exact else "approximate"
    transferred = sum(stats.transfer_cases.values())
    often_first = sorted(stats.transfer_cases.items(), key=lambda case: -case[1])
    cases = "".join(f"; {case} {count / transferred:.0%}" for case, count in often_first)
    return Text(
        f"{stats.tokens} tokens, {stats.tokens_per_second:.2f} a second, {stats.method} ({kind})\n"
        f"forwards: target {stats.target_forwards}, draft {stats.draft_forwards}; "
        f"accepted {stats.accepted} of {stats.proposed} proposed; a round: {rounds}\n{shares}"
        + (f"\ndistributions transferred{cases}" if cases else ""),
        style="dim",
    )
