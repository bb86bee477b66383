"""What is proposed already covers the drafts of further drafters."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.python.test_proposal import proposals
from tests.support import toys
from tokentiming import Draft
from tokentiming.engine.covered import Covered
from tokentiming.methods import Proposal
from tokentiming.tokens.tree import TEXT

PIECES = ["a", "ab", "bab"]
TARGET = toys.letters(PIECES)


def covered(proposal: Proposal, data: bytes) -> float:
    """The mass of the tokens that start at or before the end of ``data`` and end after it."""
    mass = 0.0
    for node, estimate in enumerate(proposal.estimates):
        pieces = [PIECES[proposal.tree.tokens[n]].encode() for n in proposal.tree.path(node)]
        start, path = b"".join(pieces[:-1]), b"".join(pieces)
        if len(start) <= len(data) < len(path) and path.startswith(data):
            mass += estimate
    return min(mass, 1.0)


@given(proposals())
def test_points_are_covered_by_the_tokens_across_them(proposal):
    found = Covered(proposal, TARGET)
    for length in range(5):
        for data in strings(length):
            assert found.after(data) == pytest.approx(covered(proposal, data))


def strings(length: int) -> list[bytes]:
    return [b""] if not length else [s + c for s in strings(length - 1) for c in (b"a", b"b")]


def test_drafts_are_compared_by_their_bytes():
    chain = Proposal.chain([1, 2])  # ab, bab
    draft = Draft()
    draft.extend([0, 1])
    draft.extend([1], TEXT)
    bytes_of = toys.letters(["a", "b"])
    after = Covered(chain, TARGET).after_nodes(draft, bytes_of)
    assert after == {TEXT: 1.0, 0: 1.0, 1: 1.0, 2: 0.0}


def test_nothing_is_covered_without_a_proposal():
    draft = Draft()
    draft.extend([0])
    assert Covered(Proposal(), TARGET).after_nodes(draft, TARGET) == {TEXT: 0.0, 0: 0.0}
