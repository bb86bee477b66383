"""Whether a call is to be recorded rather than done."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from tokentiming.ops.errors import ArgumentValueError

compiling = torch.compiler.is_dynamo_compiling


def traced(tensor: Any) -> bool:
    """True under torch.compile, and for tensors that have a shape but no memory."""
    if type(tensor) is Tensor:  # asked at every call, hence first
        return tensor.is_meta or compiling()
    return isinstance(tensor, FakeTensor) or (isinstance(tensor, Tensor) and tensor.is_meta)


def refuse_out(function: str, argument: str, out: object) -> None:
    """The registered operators return new tensors."""
    if out is not None:
        raise ArgumentValueError(
            f"{function}: out cannot be given under torch.compile or for {argument} without memory"
        )
