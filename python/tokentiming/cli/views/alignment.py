"""The terminal view of an alignment: two tokenizations of a text, and the path between them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tokentiming.cli.views.text import escaped, plain, safe

# Tokens that both sides share have no colour; each regrouping takes the next one.
PALETTE = ("cyan", "yellow", "magenta", "green", "blue", "red")
ROW_LIMIT = 24  # more draft tokens than this are shown as blocks, not as a grid


@dataclass(frozen=True)
class Tokenization:
    """One side of an alignment: the name of the tokenizer, and the bytes of each token."""

    name: str
    tokens: Sequence[bytes]

    @property
    def label(self) -> str:
        return safe(self.name)


@dataclass(frozen=True)
class Block:
    """Ranges of draft and target tokens that the path connects."""

    draft: range
    target: range
    style: str


def alignment(
    draft: Tokenization,
    target: Tokenization,
    spans: Sequence[tuple[int, int]],
    *,
    band: int,
    width: int,
) -> RenderableType:
    """Show both tokenizations, one above the other, then the path as a grid or else as blocks.

    Args:
        draft: K tokens.
        target: M tokens.
        spans: M half-open ranges of draft tokens, as `ops.align` returns them.
        band: the band of the alignment; cells outside it are left empty.
        width: columns of the terminal.
    """
    found = blocks(draft, target, spans)
    cells = {(i, j) for j, (low, high) in enumerate(spans) for i in range(low, high)}
    costs = {(i, j): edits(draft.tokens[i], target.tokens[j]) for i, j in cells}
    shared = sum(not block.style for block in found)
    summary = Text.assemble(
        (f"{len(draft.tokens)}", "bold"),
        f" and {len(target.tokens)} tokens, ",
        (f"{shared}", "bold"),
        " the same; path cost ",
        (f"{sum(costs.values())}", "bold"),
        f" byte edits, band {band}",
    )
    path = _grid(draft, target, found, cells, band)
    tall = len(draft.tokens) > ROW_LIMIT
    if tall or Console(width=10_000).measure(path).maximum > width:
        path = _block_table(draft, target, found, costs)
    return Group(_strips(draft, target, found, width), summary, Text(), path)


def blocks(
    draft: Tokenization, target: Tokenization, spans: Sequence[tuple[int, int]]
) -> list[Block]:
    """Split an alignment at common token boundaries; equal single tokens have no style."""
    cuts = [j for j, (low, _) in enumerate(spans) if j == 0 or low == spans[j - 1][1]]
    found: list[Block] = []
    coloured = 0
    for first, last in zip(cuts, [*cuts[1:], len(spans)], strict=True):
        side = range(spans[first][0], spans[last - 1][1])
        other = range(first, last)
        single = len(side) == len(other) == 1
        if single and draft.tokens[side[0]] == target.tokens[first]:
            style = ""
        else:
            style = f"black on {PALETTE[coloured % len(PALETTE)]}"
            coloured += 1
        found.append(Block(side, other, style))
    return found


def edits(left: bytes, right: bytes) -> int:
    """Levenshtein distance of two byte strings."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(above[j - 1] + (a != b), above[j] + 1, row[-1] + 1))
    return row[-1]


def visible(data: bytes) -> str:
    """Bytes made visible: spaces as symbols, incomplete characters in hexadecimal."""
    drawn = {" ": "·", "\n": "⏎", "\t": "⇥"}
    shown = [
        drawn.get(c) or (c if c.isprintable() else escaped(c))
        for c in data.decode("utf-8", errors="backslashreplace")
    ]
    if shown and unicodedata.combining(shown[0][0]):
        shown.insert(0, "◌")
    return "".join(shown) or "∅"


def _strips(
    draft: Tokenization, target: Tokenization, found: Sequence[Block], width: int
) -> RenderableType:
    """The text once for each side, split into its tokens, with equal bytes above each other."""
    margin = max(cell_len(draft.label), cell_len(target.label)) + 1
    sides = []
    for side, ranges in (
        (draft, [block.draft for block in found]),
        (target, [block.target for block in found]),
    ):
        styles = [block.style for block, part in zip(found, ranges, strict=True) for _ in part]
        ends = list(accumulate(map(len, side.tokens)))
        sides.append((side, styles, ends))
    if b"".join(draft.tokens) != b"".join(target.tokens):
        return Group(*(_separate_strip(side, styles, margin) for side, styles, _ in sides))

    data = b"".join(draft.tokens)
    cuts = sorted({0, *sides[0][2], *sides[1][2]})
    lines: list[Text] = []
    pair: list[Text] = []
    at = [0, 0]  # the current token of each side
    for start, end in pairwise(cuts):
        label = visible(data[start:end])
        if not pair or pair[0].cell_len + cell_len(label) + 1 > width:
            lines += [*pair, Text()] if pair else []
            pair = [Text(set_cell_size(side.label, margin), style="dim") for side, _, _ in sides]
        for k, (_, styles, ends) in enumerate(sides):
            closed = ends[at[k]] == end
            pair[k].append(label, style=styles[at[k]] or "not dim")
            pair[k].append("│" if closed else " ", style="dim" if closed else styles[at[k]])
            while at[k] < len(ends) and ends[at[k]] <= end:
                at[k] += 1
    return Group(*lines, *pair, Text())


def _separate_strip(side: Tokenization, styles: Sequence[str], margin: int) -> Text:
    line = Text(set_cell_size(side.label, margin), style="dim")
    for token, style in zip(side.tokens, styles, strict=True):
        line.append(visible(token), style=style or "not dim")
        line.append("│", style="dim")
    return line


def _grid(
    draft: Tokenization,
    target: Tokenization,
    found: Sequence[Block],
    cells: set[tuple[int, int]],
    band: int,
) -> Table:
    """Local costs: a row for each draft token, a column for each target token, the path marked."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column(Text(f"{draft.label} ↓  {target.label} →", style="dim"), justify="right")
    for token in target.tokens:
        table.add_column(Text(visible(token)), justify="center", no_wrap=True)
    style_of = {i: block.style for block in found for i in block.draft}
    reach = max(band, abs(len(draft.tokens) - len(target.tokens)))
    for i, token in enumerate(draft.tokens):
        row = [Text(visible(token), style=style_of[i])]
        for j, other in enumerate(target.tokens):
            if (i, j) in cells:
                row.append(Text(f" {edits(token, other)} ", style=style_of[i] or "reverse"))
            else:
                row.append(Text(str(edits(token, other)) if abs(i - j) <= reach else "", "dim"))
        table.add_row(*row)
    return table


def _block_table(
    draft: Tokenization,
    target: Tokenization,
    found: Sequence[Block],
    costs: Mapping[tuple[int, int], int],
) -> Table:
    """One row for each regrouping; tokens that both sides share are only counted."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("from", justify="right", no_wrap=True)
    for side in (draft, target):
        table.add_column(plain(side.name), overflow="fold")
    table.add_column("edits", justify="right", no_wrap=True)
    same = 0
    for block in [*found, None]:
        if block is not None and not block.style:
            same += 1
            continue
        if same:
            table.add_row("", Text(f"{same} the same", style="dim"), "", Text("0", style="dim"))
            same = 0
        if block is not None:
            paid = sum(costs.get((i, j), 0) for i in block.draft for j in block.target)
            left = "│".join(visible(draft.tokens[i]) for i in block.draft)
            right = "│".join(visible(target.tokens[j]) for j in block.target)
            start = f"{block.draft.start} : {block.target.start}"
            table.add_row(start, Text(left, block.style), Text(right, block.style), str(paid))
    return table
