"""Copies between the host and devices."""

from __future__ import annotations

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device.

    A copy to a GPU does not synchronize; pageable memory has been read when the call returns. A
    copy to the host blocks, since its values are read next.
    """
    return tensor.to(device, non_blocking=device.type != "cpu")
