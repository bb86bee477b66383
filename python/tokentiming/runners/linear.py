"""Linear layers in bfloat16 on processors without AVX-512.

There torch takes about seven times as long for eight rows as for one, so that no draft would pay.
The native core takes less than twice as long, and is faster than torch for one row too. A single
row of a small model stays with torch, because the call costs as much as reading the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from tokentiming import ops

_NO_ARGUMENTS: Mapping[str, Any] = {}

_SMALL = 1024
"""Hidden size below which torch computes a single row."""


def native_linear(model: PreTrainedModel) -> Callable[[int], AbstractContextManager[Any]] | None:
    """Contexts in which the native core computes a model's linear layers, where it is faster.

    It is faster for bfloat16 weights on x86-64 processors with AVX2 and without AVX-512.

    Args:
        model: whose embedding tells the dtype, the device and the size.

    Returns:
        A function that takes the number of rows of a forward pass and returns the context for it;
        None if torch is as fast here.
    """
    weights = model.get_input_embeddings().weight
    if not (
        weights.dtype == torch.bfloat16
        and weights.device.type == "cpu"
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
        and ops.linear_is_fast()
    ):
        return None
    return partial(_context, weights.shape[-1])


def _context(hidden: int, rows: int) -> AbstractContextManager[Any]:
    return _NativeLinear() if rows > 1 or hidden >= _SMALL else nullcontext()


class _NativeLinear(TorchFunctionMode):
    """The native core computes ``functional.linear``; all other functions stay torch's own."""

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


def _linear(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    if weight.dtype != torch.bfloat16 or not weight.is_contiguous():
        return functional.linear(input, weight, bias)
    rows = input.reshape(-1, input.shape[-1]).contiguous()
    out = ops.linear(rows, weight.detach(), None if bias is None else bias.detach())
    return out.view(*input.shape[:-1], weight.shape[0])
