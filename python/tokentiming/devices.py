"""Copies between the host and the devices that models are on."""

from __future__ import annotations

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device.

    A copy to a GPU is queued behind what runs there, and the host does not wait: pageable memory
    has been read when the call returns. A copy to the host is waited for, since its values are read
    at once.
    """
    return tensor.to(device, non_blocking=device.type != "cpu")
