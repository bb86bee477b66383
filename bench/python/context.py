"""The cost of a round's re-encoding, after a short and a long text, in one process.

In each round the target commits some bytes, half of which were drafted, and the draft's context
follows them; then the drafted tokens are encoded in the target's vocabulary. For scale, the same
with the whole text re-encoded. Both ways are checked to spell the text before they are timed.

    python bench/python/context.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from pairs import vocabularies
from timing import summary
from tokentiming import Vocabulary
from tokentiming.tokens.transcode import Context, proxies
from tokentiming.tokens.tree import Tree

TEXTS = Path(__file__).parent.parent / "data" / "texts"
COMMITTED, DRAFTED = 5, 8  # target tokens and draft tokens of a round
LENGTHS = (100, 8000)
console = Console(width=100)


class Rounds:
    """Rounds on a text that begins with a given number of the target's tokens."""

    def __init__(self, draft: Vocabulary, target: Vocabulary, length: int, rounds: int) -> None:
        text = b"".join(path.read_bytes() for path in sorted(TEXTS.glob("*")))
        ids = target.encode(text)
        ids *= -(-(length + rounds * COMMITTED) // len(ids))
        self.ends = [len(target.decode(ids[:length]))]
        for start in range(length, length + rounds * COMMITTED, COMMITTED):
            self.ends.append(self.ends[-1] + len(target.decode(ids[start : start + COMMITTED])))
        self.text = target.decode(ids)
        self.draft, self.target = draft, target

    def seconds(self, follow: Callable[[bytes], list[int]], extend: Callable) -> list[float]:
        """Seconds of each round but the first, which reads the text before it."""
        samples = []
        for end in self.ends:
            committed = self.text[:end]
            start = time.perf_counter()
            ids = follow(committed)
            samples.append(time.perf_counter() - start)
            assert self.draft.decode(ids) == committed
            right = self.draft.encode(self.text[end : end + 12])
            drafted = (right + self.draft.encode(b" something else altogether"))[:DRAFTED]
            start = time.perf_counter()
            extend(drafted)
            proxies(Tree.chain(drafted), [1.0] * len(drafted), self.draft, self.target)
            samples[-1] += time.perf_counter() - start
        return samples[1:]


def main(rounds: int = 200) -> None:
    draft, target = vocabularies()
    table = Table(title="re-encoding a round, microseconds (quartiles)")
    for heading in ("tokens before", "context kept", "whole text", "whole / kept"):
        table.add_column(heading, justify="right")
    medians = []
    for length in LENGTHS:
        case = Rounds(draft, target, length, rounds)
        context = Context(draft)
        kept = case.seconds(context.follow, context.extend)
        anew = case.seconds(draft.encode, lambda ids: None)
        medians.append(statistics.median(kept))
        cells = [
            f"{s.median * 1e6:,.0f} ({s.low * 1e6:,.0f} to {s.high * 1e6:,.0f})"
            for s in (summary(kept), summary(anew))
        ]
        table.add_row(f"{length:,}", *cells, f"{statistics.median(anew) / medians[-1]:.1f}")
    console.print(table)
    console.print(f"{LENGTHS[1]:,} tokens over {LENGTHS[0]:,}: {medians[1] / medians[0]:.2f}")


if __name__ == "__main__":
    typer.run(main)
