"""Checks of arguments that the core does not make, and new tensors for results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokentiming import _core
from tokentiming.ops.errors import ArgumentTypeError, ArgumentValueError
from tokentiming.ops.operators import without_memory


def require_parts(function: str, kind: type[tuple[Any, ...]], out: object) -> None:
    """Refuse an ``out`` that lacks one of its tensors.

    Call it only after an operation has failed: a successful one has read the attributes itself.
    """
    if out is None:
        return
    for attribute in kind._fields:  # type: ignore[attr-defined]
        try:
            getattr(out, attribute)
        except Exception as error:  # noqa: PERF203 - the call has failed
            raise ArgumentTypeError(
                f"{function}: out has no {attribute}, got {type(out).__name__};"
                f" give an ops.{kind.__name__}(...)"
            ) from error


def dtype_of(function: str, argument: str, rows: Any) -> torch.dtype:
    """The dtype of a result for these rows: float32 or float64."""
    found = rows.dtype if isinstance(rows, Tensor) else _core.dtype(rows, function, argument)
    return torch.float64 if found in (torch.float64, "float64") else torch.float32


def length(function: str, argument: str, axes: str, value: Any) -> int | torch.SymInt:
    """The length of the first axis of a tensor with these axes."""
    if without_memory(value):
        return value.shape[0]  # type: ignore[no-any-return]
    return _core.length(value, function, argument, axes)


def new(
    function: str,
    arguments: str,
    shape: Sequence[int | torch.SymInt],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """A tensor of up to two axes for a result.

    If there is no memory, the error names the arguments that give its shape.
    """
    strides = (*shape[1:], 1)[: len(shape)]
    try:  # empty_strided takes two thirds of the time of empty
        return torch.empty_strided(shape, strides, dtype=dtype, device=device)
    except RuntimeError as error:
        refuse_shape(function, arguments, [shape], error)
        raise


def refuse_shape(
    function: str,
    arguments: str,
    shapes: Sequence[Sequence[int | torch.SymInt]],
    error: RuntimeError,
) -> None:
    """Raise an error that names the arguments, unless a GPU is temporarily out of memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return
    raise ArgumentValueError(
        f"{function}: no result of shape {' and '.join(str(list(shape)) for shape in shapes)} can"
        f" be made for {arguments}: {first_line(error)}"
    ) from error


def first_line(error: Exception) -> str:
    """The first line of a message of torch, without its native stack."""
    return str(error).split("\n", 1)[0]
