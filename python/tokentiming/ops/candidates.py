"""The tokens that lead a race on shared noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokentiming import _core
from tokentiming.ops.arguments import new, require_parts
from tokentiming.ops.devices import device_of
from tokentiming.ops.operators import (
    FLOATS,
    INT64,
    record,
    register,
    traced,
    without_memory,
)


class Candidates(NamedTuple):
    """The tokens that lead the race of each of R rows, best first.

    ids
        int64 ``[R, count]``; -1 after the last token with a finite logit.
    shares
        float32 ``[R, count]``: softmax of the scores over the whole row; 0 where the id is -1.
    """

    ids: Tensor
    shares: Tensor


def candidates(
    logits: Tensor,
    keys: Tensor,
    *,
    seed: int,
    states: Tensor,
    count: int,
    out: Candidates | None = None,
) -> Candidates:
    """The ``count`` tokens that lead the race of ``sample``, and their shares.

    With the scores ``z[r, v] = logits[r, v] - log E(seed, states[r], keys[v])``, row ``r`` gives
    the tokens of the greatest scores in descending order, ties in ascending order of ids, and
    ``softmax(z[r])`` at these tokens. The first is the token that ``sample`` draws from the same
    arguments. A share estimates how likely a similar distribution is to draw the token at this
    state; shares are accurate to a relative error of 1e-4. The ids depend only on the arguments,
    and so do the shares up to rounding.

    Args:
        logits: float16, bfloat16, float32 or float64 ``[R, V]``, as in ``sample``.
        keys: int64 ``[N]``, N <= V, as in ``sample``.
        seed: the stream, in [0, 2^64).
        states: int64 ``[R, 3]``, as in ``sample``.
        count: candidates of a row, 1 to 16. A row with fewer finite logits is filled up with id -1
            and share 0.
        out: tensors to fill instead of new ones.

    Returns:
        Ids and shares, new or ``out``.

    Raises:
        TypeError: an argument is not a tensor or has another dtype, or count is not an integer.
        ValueError: count out of range, or what ``sample`` refuses: NaN, +inf or no finite logit in
            a row, a state or seed out of range, sizes that disagree, logits that require grad,
            tensors that are not all in CPU memory or all on one GPU.

    On a GPU the ids are the same. The host does not read values, and a row that would raise gets
    ids -1 and shares 0.

    Source: Gumbel top-k, arXiv 1903.06059; shared noise, arXiv 2408.07978.

    >>> keys, states = torch.arange(3), torch.tensor([[0, 0, 0], [0, 5, 0]])
    >>> found = candidates(torch.zeros(2, 3), keys, seed=7, states=states, count=2)
    >>> found.ids
    tensor([[1, 2],
            [1, 0]])
    >>> found.shares
    tensor([[0.6732, 0.2574],
            [0.7748, 0.1327]])
    """
    try:
        if traced(logits):
            return Candidates(
                *record(
                    "candidates",
                    out,
                    logits=logits,
                    keys=keys,
                    seed=seed,
                    states=states,
                    count=count,
                )
            )
        filled = _new(logits, count=count) if out is None else out
        _core.candidates(logits, keys, seed, states, count, filled.ids, filled.shares)
    except Exception:
        require_parts("candidates", Candidates, out)
        raise
    return filled


def _new(logits: Tensor, *, count: int, **_: object) -> Candidates:
    if without_memory(logits):
        shape = (logits.shape[0], count)
    else:
        shape = _core.candidates_shape(logits, count)
    device = device_of(logits)
    arguments = "logits and count"
    return Candidates(
        new("candidates", arguments, shape, torch.int64, device),
        new("candidates", arguments, shape, torch.float32, device),
    )


register(
    candidates,
    tuple[Tensor, Tensor],
    _new,
    {
        "logits": ("[R, V]", FLOATS),
        "keys": ("[N]", INT64),
        "states": ("[R, 3]", INT64),
    },
)
