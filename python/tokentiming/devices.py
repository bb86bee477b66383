"""From the host to where the models are."""

from __future__ import annotations

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device, put in line behind what runs there.

    The host does not wait: pageable memory has been read when the call returns. Without
    ``non_blocking`` torch would wait for all that came before.
    """
    return tensor.to(device, non_blocking=True)
