"""Linear layers over a handful of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from tokentiming import _core
from tokentiming.ops.arguments import new
from tokentiming.ops.devices import CPU
from tokentiming.ops.recording import record
from tokentiming.ops.tracing import traced


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
    """
    if traced(input):
        product: Tensor = record("linear", out, input=input, weight=weight, bias=bias)
        return product
    if out is None:
        rows = _core.length(input, "linear", "input", "[R, K]")
        columns = _core.length(weight, "linear", "weight", "[N, K]")
        out = new("linear", "input and weight", (rows, columns), torch.bfloat16, CPU)
    _core.linear(input, weight, bias, out)
    return out


def linear_is_fast() -> bool:
    """Whether this processor has a fast ``linear`` (x86-64 with AVX2 and FMA)."""
    return _core.linear_is_fast()
