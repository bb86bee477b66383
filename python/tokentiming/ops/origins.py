"""Maps between vocabularies, read from the target's side."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokentiming import _core
from tokentiming.ops.arguments import as_tensor, first_line
from tokentiming.ops.errors import ArgumentTypeError, ArgumentValueError

_FUNCTION = "Origins.of"


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
        _core.length(targets, _FUNCTION, "targets", "[D]")
        targets = as_tensor(targets)
        if targets.dtype not in (torch.int32, torch.int64):
            raise ArgumentTypeError(
                f"{_FUNCTION}: targets must be int32 or int64, got {targets.dtype}"
            )
        try:
            return cls(*_turned_round(targets))
        except torch.OutOfMemoryError:  # a GPU's, which may have room for it later
            raise
        except RuntimeError as error:
            reason = first_line(error)
            raise ArgumentValueError(f"{_FUNCTION}: no origins of targets: {reason}") from error


def _turned_round(targets: Tensor) -> tuple[Tensor, Tensor]:
    kept = torch.nonzero(targets >= 0)[:, 0]
    by_target, order = targets[kept].sort(stable=True)
    last = int(by_target[-1]) if len(by_target) else -1
    if last >= 2**31 - 1:
        raise ArgumentValueError(
            f"{_FUNCTION}: targets has the entry {last}; a target token is below 2**31 - 1"
        )
    every = torch.arange(last + 2, dtype=by_target.dtype, device=targets.device)
    offsets = torch.searchsorted(by_target, every, out_int32=True)
    return offsets, kept[order].int()


def tensors_of(function: str, origins: Any) -> Origins:
    """The tensors of origins. Another pair of tensors may mean anything."""
    if isinstance(origins, Origins):
        return origins
    raise ArgumentTypeError(
        f"{function}: origins must be ops.Origins, got {type(origins).__name__};"
        " make them with ops.Origins.of(...)"
    )
