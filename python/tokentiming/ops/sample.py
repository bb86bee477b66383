"""Draws on noise that two models share."""

from __future__ import annotations

import torch
from torch import Tensor

from tokentiming import _core
from tokentiming.ops.arguments import length, new
from tokentiming.ops.devices import device_of
from tokentiming.ops.operators import (
    FLOATS,
    INT64,
    compiling,
    record,
    refuse_out,
    register,
    traced,
)


def sample(
    logits: Tensor,
    keys: Tensor,
    *,
    seed: int,
    states: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """Draw one token per row by an exponential race on noise that other models can share.

    Row ``r`` draws ``argmax_v logits[r, v] - log E(seed, states[r], keys[v])``, where the ``E`` are
    independent Exp(1) variates from Philox 4x32-10: token ``v`` is drawn with probability
    ``softmax(logits[r])[v]``. Equal states and equal keys get equal noise, so that two models with
    similar probabilities mostly draw the same token. ``-inf`` is never drawn; ties go to the lowest
    id. The result depends only on the arguments, not on threads or processor.

    Args:
        logits: float16, bfloat16, float32 or float64 ``[R, V]``, contiguous along the vocabulary;
            rows may have any stride. Unnormalised log-probabilities, after temperature.
        keys: int64 ``[N]``, N <= V: one 64-bit key per token. Ids from N on are padding of the
            model's head; they are not read and never drawn.
        seed: the stream, in [0, 2^64).
        states: int64 ``[R, 3]``: index of the row's sequence, bytes generated so far, zero-byte
            tokens generated so far; the last two below 2^32.
        out: int64 ``[R]`` to fill instead of a new tensor.

    Returns:
        Token ids, int64 ``[R]``.

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: NaN, +inf or no finite logit in a row (the message names it), a state or seed
            out of range, sizes that disagree, logits that require grad, tensors that are not all in
            CPU memory or all on one GPU.

    On a GPU the ids are the same. The host does not read values, and a row that would raise gets
    the id -1.

    Source: A* sampling, NeurIPS 2014; shared noise, arXiv 2408.07978; Philox, SC 2011.

    >>> keys, states = torch.arange(3), torch.tensor([[0, 0, 0], [0, 5, 0]])
    >>> sample(torch.zeros(2, 3), keys, seed=7, states=states)
    tensor([1, 1])
    """
    if out is None:
        if traced(logits):
            drawn: Tensor = record(
                "sample", out, logits=logits, keys=keys, seed=seed, states=states
            )
            return drawn
        out = _new(logits)
    elif compiling():  # the core itself refuses tensors without memory
        refuse_out("sample", "logits", out)
    _core.sample(logits, keys, seed, states, out)
    return out


def _new(logits: Tensor, **_: object) -> Tensor:
    rows = length("sample", "logits", "[R, V]", logits)
    return new("sample", "logits", (rows,), torch.int64, device_of(logits))


register(
    sample,
    Tensor,
    _new,
    {
        "logits": ("[R, V]", FLOATS),
        "keys": ("[N]", INT64),
        "states": ("[R, 3]", INT64),
    },
)


def log_noise(keys: Tensor, *, seed: int, states: Tensor) -> Tensor:
    """The noise that ``sample`` races on: ``log E(seed, states[r], keys[v])``.

    Args:
        keys: int64 ``[N]``.
        seed: as in ``sample``.
        states: int64 ``[R, 3]``, as in ``sample``.

    Returns:
        float64 ``[R, N]``.

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: a state or seed out of range, or tensors not all in CPU memory or all on one
            GPU.

    On a GPU the noise is the same, and NaN where a state is out of range.

    >>> log_noise(torch.arange(2), seed=7, states=torch.tensor([[0, 0, 0]]))
    tensor([[ 0.3244, -1.9469]], dtype=torch.float64)
    """
    rows = length("log_noise", "states", "[R, 3]", states)
    columns = length("log_noise", "keys", "[N]", keys)
    out = new("log_noise", "states and keys", (rows, columns), torch.float64, device_of(keys))
    _core.log_noise(keys, seed, states, out)
    return out
