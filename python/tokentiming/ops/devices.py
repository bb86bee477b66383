"""Where tensors are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokentiming import _core

CPU = torch.device("cpu")


def device_of(tensor: Any) -> torch.device:
    """Where a result belongs: beside a torch tensor; in CPU memory for anything else."""
    return tensor.device if isinstance(tensor, Tensor) else CPU


def has_cuda() -> bool:
    """Whether this build has the kernels for GPUs; without them a tensor on one is refused."""
    return _core.has_cuda()
