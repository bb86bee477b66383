"""Linear layers over a handful of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from tokentiming import _core
from tokentiming.ops.arguments import length, new
from tokentiming.ops.devices import device_of
from tokentiming.ops.operators import NARROW, record, register, traced


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """A linear layer over a few rows, reading the weights once for all of them.

    ``out = input @ weight.T + bias``, summed in float32 and rounded once, to nearest even. A row of
    the result depends on its own row of the input alone, whatever the number of rows. Fast where
    ``linear_is_fast()``.

    Args:
        input: bfloat16 ``[R, K]``, contiguous; meant for R of a dozen or so.
        weight: bfloat16 ``[N, K]``, contiguous.
        bias: bfloat16 ``[N]``, contiguous, or None.
        out: bfloat16 ``[R, N]`` to fill instead of a new tensor.

    Returns:
        bfloat16 ``[R, N]``.

    Raises:
        TypeError: an argument has another dtype or is no tensor.
        ValueError: shapes disagree, or a tensor is not contiguous, requires grad, or is not in CPU
            memory, or ``out`` shares memory with an input.

    >>> linear(torch.ones(1, 2).bfloat16(), torch.tensor([[1, 2], [3, 4]]).bfloat16())
    tensor([[3., 7.]], dtype=torch.bfloat16)
    """
    if traced(input):
        product: Tensor = record("linear", out, input=input, weight=weight, bias=bias)
        return product
    if out is None:
        out = _new(input, weight)
    _core.linear(input, weight, bias, out)
    return out


def _new(input: Tensor, weight: Tensor, **_: object) -> Tensor:
    rows = length("linear", "input", "[R, K]", input)
    columns = length("linear", "weight", "[N, K]", weight)
    return new("linear", "input and weight", (rows, columns), torch.bfloat16, device_of(input))


register(
    linear,
    Tensor,
    _new,
    {"input": ("[R, K]", NARROW), "weight": ("[N, K]", NARROW), "bias": ("[N]", NARROW)},
    devices="cpu",
)


def linear_is_fast() -> bool:
    """Whether this processor has a fast ``linear`` (x86-64 with AVX2 and FMA)."""
    return _core.linear_is_fast()
