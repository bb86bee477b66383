"""Maps between vocabularies, read from the target's side."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Origins(NamedTuple):
    """A map from draft tokens to target tokens the other way round, which a GPU needs.

    There every target token adds up what comes to it, in one order; additions at the draft tokens'
    own pace would give another sum each time. Build it once for a pair of vocabularies.

    offsets
        int32 ``[T + 1]``: to target token ``t`` go the draft tokens
        ``draft_ids[offsets[t]:offsets[t + 1]]``; to those from T on, none.
    draft_ids
        int32 ``[N]``, ascending for each target token.
    """

    offsets: Tensor
    draft_ids: Tensor

    @classmethod
    def of(cls, targets: Tensor) -> Origins:
        """Turn round ``targets``, int32 or int64 ``[D]``: a target token each, or -1 for none."""
        kept = torch.nonzero(targets >= 0)[:, 0]
        by_target, order = targets[kept].sort(stable=True)
        size = int(by_target[-1]) + 1 if len(by_target) else 0
        every = torch.arange(size + 1, dtype=by_target.dtype, device=targets.device)
        offsets = torch.searchsorted(by_target, every, out_int32=True)
        return cls(offsets, kept[order].int())
