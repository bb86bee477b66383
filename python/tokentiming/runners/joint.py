"""Which texts are read together in a pass, padded to a common number of rows."""

from __future__ import annotations

from collections.abc import Sequence

JOINT = 16
"""Maximum number of unread tokens of a text in a pass over all texts. One with more is first read
in passes over texts of similar lengths. So much padding costs about as much as a pass saves."""


def joint_texts(counts: Sequence[int], most: int) -> list[range]:
    """Which texts to read in a pass: consecutive ones, each in one pass if it has any tokens.

    A text joins the texts before it if this adds at most ``JOINT`` rows of padding.

    Args:
        counts: for each text the number of tokens to read.
        most: maximum number of rows in a pass of several texts, padding included.

    Returns:
        For each pass the indices of its texts.

    Example:
        >>> joint_texts([30, 32, 0, 30, 100], most=512)
        [range(0, 2), range(3, 4), range(4, 5)]
    """
    found: list[range] = []
    for index, count in enumerate(counts):
        if not count:
            continue
        if found and found[-1].stop == index:
            joint = range(found[-1].start, index + 1)
            rows = _rows(counts, joint)
            if rows <= most and rows - _rows(counts, found[-1]) - count <= JOINT:
                found[-1] = joint
                continue
        found.append(range(index, index + 1))
    return found


def _rows(counts: Sequence[int], joint: range) -> int:
    """Rows of a pass over some texts, padding included."""
    return max(counts[index] for index in joint) * len(joint)
