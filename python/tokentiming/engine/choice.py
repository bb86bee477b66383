"""Which nodes to verify and which to grow: the choice that maximizes expected tokens per second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Choice(NamedTuple):
    """The best number of nodes of each text to verify."""

    rows: int
    rate: float
    """Expected tokens per second."""


def best_rows(probs: Sequence[Sequence[float]], *, seconds: float, row: float, most: int) -> Choice:
    """Choose how many nodes of each text to verify, the likeliest first.

    A round commits a token of each text and the accepted nodes. A pass is padded to the text with
    the most rows, so a further row costs one for each text. Since the likeliest nodes come first,
    the rate rises up to its maximum and falls after it.

    Args:
        probs: for each text the probability that the path to each node is emitted.
        seconds: of the round without any proposed node.
        row: seconds of a row in the target's pass.
        most: maximum number of nodes of a text.
    """
    tokens = float(len(probs))
    ordered = [sorted(of_text, reverse=True) for of_text in probs]
    cost = row * len(probs)
    rows = 0
    while rows < most:
        gain = sum(of_text[rows] for of_text in ordered if len(of_text) > rows)
        if gain <= 0 or gain * seconds <= tokens * cost:
            break
        tokens, seconds, rows = tokens + gain, seconds + cost, rows + 1
    return Choice(rows, tokens / seconds)


def worth_growing(
    gains: Sequence[dict[int, float]], *, rate: float, level: float, row: float, widest: int
) -> list[list[int]]:
    """Choose the nodes of each text to grow in a further level; none if the level does not pay.

    Args:
        gains: for each text and each node that can be grown the expected number of tokens gained.
        rate: tokens per second without this level.
        level: seconds of a level of drafting.
        row: seconds of a row in the draft's pass and of one in the target's.
        widest: maximum number of nodes of a text.
    """
    grown = []
    gain, seconds = 0.0, level
    for of_text in gains:
        paying = [node for node, more in of_text.items() if more > rate * row]
        chosen = sorted(paying, key=lambda node: -of_text[node])[:widest]
        gain += sum(of_text[node] for node in chosen)
        seconds += len(chosen) * row
        grown.append(sorted(chosen))
    return grown if gain > rate * seconds else [[] for _ in gains]
