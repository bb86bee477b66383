"""Linear layers over a handful of rows, at the price of reading the weights once.

torch multiplies bfloat16 matrices quickly only on processors with AVX-512. On the others a pass
over eight rows takes it some seven times as long as a pass over one, and no draft could pay.
Within ``few_rows`` such layers go to the core, which takes about twice as long.
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


def few_rows(weights: torch.Tensor, rows: int) -> AbstractContextManager[Any]:
    """A context in which linear layers over ``rows`` rows of such weights are fast.

    Args:
        weights: any weight matrix of the model; its dtype and device decide.
        rows: tokens in the coming forward pass.
    """
    if (
        rows > 1
        and weights.dtype == torch.bfloat16
        and weights.device.type == "cpu"
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
        and ops.linear_is_fast()
    ):
        return _FewRows()
    return nullcontext()


class _FewRows(TorchFunctionMode):
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
