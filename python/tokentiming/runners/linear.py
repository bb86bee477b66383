"""bfloat16 linear layers at the price of reading the weights once, on processors without AVX-512.

There torch takes some seven times as long for eight rows as for one, and no draft could pay; the
core takes less than twice as long, and for one row, too, less than torch. A single row of a small
model is left to torch: reading its weights takes little longer than finding the way to the core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tokentiming import ops

_NO_ARGUMENTS: Mapping[str, Any] = {}

_SMALL = 1024
"""Hidden size below which a single row stays with torch."""


def fast_linear(weights: torch.Tensor, rows: int) -> AbstractContextManager[Any]:
    """A context in which the linear layers of a model go to the core where that is faster.

    Args:
        weights: the model's embedding, ``[V, hidden]``.
        rows: tokens in the coming forward pass.
    """
    if (
        (rows > 1 or weights.shape[-1] >= _SMALL)
        and weights.dtype == torch.bfloat16
        and weights.device.type == "cpu"
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
        and ops.linear_is_fast()
    ):
        return _FastLinear()
    return nullcontext()


class _FastLinear(TorchFunctionMode):
    """Sends linear layers to the core; all other functions stay torch's own."""

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
