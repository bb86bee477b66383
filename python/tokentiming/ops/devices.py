"""Devices of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokentiming import _core

CPU = torch.device("cpu")


def device_of(tensor: Any) -> torch.device:
    """The device of a result: that of a torch tensor, or the CPU for anything else."""
    return tensor.device if isinstance(tensor, Tensor) else CPU


def has_cuda() -> bool:
    """Whether this build has GPU kernels; without them tensors on a GPU are refused."""
    return _core.has_cuda()
