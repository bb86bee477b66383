"""Linear layers in bfloat16, where ``tokentiming._native`` computes them faster than torch.

With AVX2 and without AVX-512, torch takes about six times as long for eight rows as for one, so
drafting would not pay. ``_native`` takes about twice as long, and is also faster than torch for one
row. With AMX it is faster for any number of rows, and with AVX-512 BF16 for few. A single row
of a small model is computed by torch, because the call costs as much as reading the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tokentiming.ops.operators import traced
from tokentiming.runners.native_module import BUILT, is_fast

if TYPE_CHECKING or BUILT:
    from tokentiming import _native

_NO_ARGUMENTS: Mapping[str, Any] = {}

_SMALL = 1024
"""For smaller hidden sizes torch computes a single row."""

_MOST_ROWS = {"amx": math.inf, "avx512bf16": 64}
"""The most rows for which a variant of ``_native`` is faster than torch."""


def native_linear(embedding: Tensor) -> Callable[[int], AbstractContextManager[Any]] | None:
    """Contexts in which ``_native`` computes a model's linear layers, if it is faster than torch.

    It is faster for bfloat16 weights on x86-64 processors with AMX or AVX-512 BF16, or with AVX2
    and without AVX-512.

    Args:
        embedding: of the model, ``[V, hidden]``.

    Returns:
        A function that takes the number of rows of a forward pass and returns the context for it;
        None if torch is as fast here.
    """
    limit = _most_rows()
    if embedding.dtype != torch.bfloat16 or embedding.device.type != "cpu" or limit == 0:
        return None
    return partial(_context, 1 if embedding.shape[-1] >= _SMALL else 2, limit)


def _most_rows() -> float:
    """The most rows for which ``_native`` is faster than torch on this processor."""
    if not is_fast():
        return 0
    fastest = _native.variants()[0]
    if fastest in _MOST_ROWS:
        return _MOST_ROWS[fastest]
    return math.inf if torch.backends.cpu.get_cpu_capability() == "AVX2" else 0


def _context(least: int, most: float, rows: int) -> AbstractContextManager[Any]:
    return _NativeLinear() if least <= rows <= most else nullcontext()


class _NativeLinear(TorchFunctionMode):
    """``_native`` computes ``functional.linear``; all other functions stay torch's own."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is functional.linear:
            return _linear(*args, **(kwargs or _NO_ARGUMENTS))
        return function(*args, **(kwargs or _NO_ARGUMENTS))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if weight.dtype != torch.bfloat16 or not weight.is_contiguous():
        return functional.linear(input, weight, bias)
    rows = input.reshape(-1, input.shape[-1]).contiguous()
    product = _operator if traced(rows) else _product
    out = product(rows, weight.detach(), None if bias is None else bias.detach())
    return out.view(*input.shape[:-1], weight.shape[0])


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``rows @ weight.T + bias``: bfloat16 ``[R, N]`` from ``[R, K]`` and ``[N, K]``."""
    out = torch.empty((rows.shape[0], weight.shape[0]), dtype=torch.bfloat16, device="cpu")
    _native.linear(rows, weight, bias, out)
    return out


# torch.compile cannot trace into _native; it calls this operator instead.
@custom_op("tokentiming::native_linear", mutates_args=(), device_types="cpu")
def _operator(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _product(rows, weight, bias)


@_operator.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return rows.new_empty((rows.shape[0], weight.shape[0]))
