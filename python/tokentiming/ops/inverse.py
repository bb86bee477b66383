"""Inverses of maps between vocabularies, which ``ops.VocabularyMap`` makes on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tokentiming.ops.arguments import first_line
from tokentiming.ops.errors import ArgumentValueError


def inverse(targets: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Group the draft tokens by the target token that each maps to.

    On a GPU each target token sums its draft tokens in a fixed order. Atomic additions from the
    draft tokens would round differently in each run.

    Args:
        targets: int32 or int64 ``[D]``: the target token of each draft token, or -1 for none.
        name: the name of ``targets`` in errors.

    Returns:
        ``offsets``, int32 ``[T + 1]``, and ``draft_ids``, int32 ``[N]``: the draft tokens that map
        to target token ``t`` are ``draft_ids[offsets[t]:offsets[t + 1]]``, in ascending order. No
        draft token maps to target tokens from T on.

    Raises:
        ValueError: an entry is 2**31 - 1 or more, or the result does not fit in memory.

    >>> inverse(torch.tensor([2, -1, 0, 2]), "first")
    (tensor([0, 1, 1, 3], dtype=torch.int32), tensor([2, 0, 3], dtype=torch.int32))
    """
    try:
        return _inverse(targets, name)
    except torch.OutOfMemoryError:  # of a GPU, which may have memory for it later
        raise
    except RuntimeError as error:
        raise ArgumentValueError(
            f"VocabularyMap: the inverse of {name} cannot be made: {first_line(error)}"
        ) from error


def _inverse(targets: Tensor, name: str) -> tuple[Tensor, Tensor]:
    kept = torch.nonzero(targets >= 0)[:, 0]
    by_target, order = targets[kept].sort(stable=True)
    last = int(by_target[-1]) if len(by_target) else -1
    if last >= 2**31 - 1:
        raise ArgumentValueError(
            f"VocabularyMap: {name} has the entry {last}; a target token is below 2**31 - 1"
        )
    every = torch.arange(last + 2, dtype=by_target.dtype, device=targets.device)
    offsets = torch.searchsorted(by_target, every, out_int32=True)
    return offsets, kept[order].int()
