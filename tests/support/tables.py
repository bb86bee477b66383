"""Byte tables and vocabulary maps as the operations take them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain

import torch

from tokentiming import ops


def table_of(tokens: Sequence[bytes]) -> ops.ByteTable:
    """A vocabulary's concatenated tokens."""
    return ops.ByteTable(torch.tensor(list(b"".join(tokens)), dtype=torch.uint8), offsets(tokens))


def map_of(
    expansions: Sequence[Sequence[int]], exact: Sequence[int] | None = None
) -> ops.VocabularyMap:
    """What each draft token becomes in the target's tokens; no token is shared without `exact`."""
    return ops.VocabularyMap(
        _ids([-1] * len(expansions) if exact is None else exact),
        _ids([e[0] if e else -1 for e in expansions]),
        offsets(expansions),
        _ids(list(chain(*expansions))),
    )


def exact_map(exact: torch.Tensor) -> ops.VocabularyMap:
    """A map of which only ``exact`` is filled."""
    return ops.VocabularyMap(
        exact.int(),
        torch.full((len(exact),), -1, dtype=torch.int32),
        torch.zeros(len(exact) + 1, dtype=torch.int64),
        torch.zeros(0, dtype=torch.int32),
    )


def _ids(ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor(ids, dtype=torch.int32)


def offsets(sequences: Sequence[Sequence[object] | bytes]) -> torch.Tensor:
    """Start offsets of the concatenated parts, and the end of the last one."""
    return torch.tensor([0, *accumulate(map(len, sequences))])
