"""Toy pairs that are not nested: what they hold between them is what could go wrong."""

from __future__ import annotations

import toys
from enumeration import Gram

# A merge on each side, a token that begins another, equal bytes twice, a token without bytes, and
# draft tokens whose expansions begin alike and end or go on.
TARGET = toys.letters(["<eos>", "a", "b", "ab", "a", ""])
DRAFT = toys.letters(["<eos>", "a", "b", "ba", "bab", ""])

# The target merges what the draft draws apart, and has an end of turn under another id.
MERGING = toys.letters(["b", "bb", "a", "<eos>", "aab"])
APART = toys.letters(["<eos>", "b", "a", "aa"])

PAIRS = {"crossing": (DRAFT, TARGET), "merging": (APART, MERGING), "same": (TARGET, TARGET)}
TARGET_SEED, DRAFT_SEED = 1, 2


def models(pair: str, support: int = 4) -> tuple[Gram, Gram]:
    """Target and draft of a pair."""
    draft, target = PAIRS[pair]
    return Gram(len(target), TARGET_SEED, support), Gram(len(draft), DRAFT_SEED, support)
