"""Byte tables and expansions as the operations take them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import torch


class Table(NamedTuple):
    """A vocabulary's tokens laid end to end."""

    bytes: torch.Tensor
    offsets: torch.Tensor

    @classmethod
    def of(cls, tokens: Sequence[bytes]) -> Table:
        return cls(torch.tensor(list(b"".join(tokens)), dtype=torch.uint8), offsets(tokens))


class Map(NamedTuple):
    """What each draft token becomes in the target's tokens."""

    first: torch.Tensor
    expansion_offsets: torch.Tensor
    expansion_ids: torch.Tensor

    @classmethod
    def of(cls, expansions: Sequence[Sequence[int]], dtype: torch.dtype = torch.int64) -> Map:
        return cls(
            torch.tensor([e[0] if e else -1 for e in expansions], dtype=dtype),
            offsets(expansions),
            torch.tensor(list(chain(*expansions)), dtype=dtype),
        )


def offsets(sequences: Sequence[Sequence[object] | bytes]) -> torch.Tensor:
    """Where each of them begins, laid end to end, and where the last one ends."""
    return torch.tensor([0, *accumulate(map(len, sequences))])
