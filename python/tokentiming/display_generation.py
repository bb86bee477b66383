"""What the terminal shows of a generation: streamed text, side by side, and the figures."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tokentiming.demo import Comparison, Watcher
from tokentiming.stats import STAGES, Stats

ACCEPTED = "bold green"


class StreamedText:
    """Text that grows by bytes, each stretch in a style."""

    def __init__(self) -> None:
        self.text = Text()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def append(self, data: bytes, style: str = "") -> str:
        """Add bytes; returns the characters that they complete."""
        characters = self._decoder.decode(data)
        self.text.append(characters, style)
        return characters


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
            yield cls(title, live)

    def alone(self, data: bytes) -> None:
        self._alone.append(data)
        self._draw()

    def speculative(self, data: bytes, accepted: bool) -> None:
        self._speculative.append(data, ACCEPTED if accepted else "")
        self._draw()

    def _draw(self) -> None:
        columns = Table.grid(expand=True, padding=(0, 1))
        columns.add_column(ratio=1)
        columns.add_column(ratio=1)
        columns.add_row(
            Panel(self._alone.text, title=f"{self._title}: target alone", box=box.ROUNDED),
            Panel(
                self._speculative.text,
                title=Text.assemble("with a draft, ", ("accepted", ACCEPTED), " in colour"),
                box=box.ROUNDED,
            ),
        )
        self._live.update(columns)


def comparison_table(target: str, draft: str, rows: Sequence[Comparison]) -> RenderableType:
    """The figures of the demonstration, and where ids differ."""
    table = Table(title=f"{target} with {draft} as its draft", box=box.SIMPLE_HEAD)
    for heading in ("prompt", "alone", "drafted", "ratio", "accepted", "per forward"):
        table.add_column(heading, justify="left" if heading == "prompt" else "right")
    for stage in ("drafting", "target", "rest"):
        table.add_column(f"% {stage}", justify="right")
    table.add_column("ids")
    notes = ["alone, drafted: tokens per second; alone is the faster of generate and our loop"]
    for row in rows:
        stats = row.stats
        drafting, target_share = (stats.stage_seconds[s] for s in ("drafting", "target"))
        rest = stats.seconds - drafting - target_share
        table.add_row(
            row.name,
            f"{row.alone:.2f}",
            f"{stats.tokens_per_second:.2f}",
            Text(f"{row.ratio:.2f}x", style="bold"),
            f"{stats.acceptance_rate:.0%}",
            f"{stats.tokens_per_forward:.2f}",
            *(f"{part / stats.seconds:.0%}" for part in (drafting, target_share, rest)),
            "identical" if row.difference is None else f"differ at {row.difference.position}",
        )
        if row.difference is not None:
            notes.append(
                f"{row.name}: after {row.difference.position} equal tokens two logits "
                f"{abs(row.difference.gap):.4f} apart decide the next one"
            )
    return Group(table, *(Text(note, style="dim") for note in notes))


def stats_lines(stats: Stats) -> RenderableType:
    """One generation's figures in a few lines."""
    rounds = " ".join(f"{n}:{count}" for n, count in sorted(stats.accepted_per_round.items()))
    shares = ", ".join(
        f"{stage} {stats.stage_seconds[stage] / stats.seconds:.0%}"
        for stage in STAGES
        if stats.stage_seconds[stage]
    )
    law = "exact" if stats.exact else "approximate"
    transferred = stats.transfer_cases.total()
    cases = "".join(
        f"; {case} {count / transferred:.0%}" for case, count in stats.transfer_cases.most_common()
    )
    return Text(
        f"{stats.tokens} tokens, {stats.tokens_per_second:.2f} a second, {stats.method} ({law})\n"
        f"forwards: target {stats.target_forwards}, draft {stats.draft_forwards}; "
        f"accepted {stats.accepted} of {stats.proposed} proposed; a round: {rounds}\n{shares}"
        + (f"\nlaws transferred{cases}" if cases else ""),
        style="dim",
    )
