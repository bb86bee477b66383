"""How transformers' ``sdpa`` attention treats heads that share keys and values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SETTING = "TRANSFORMERS_SDPA_FORCE_GQA"


@contextmanager
def shared_heads(device: torch.device) -> Iterator[None]:
    """A context in which heads share keys and values on a CPU under a mask too.

    With a mask, transformers copies keys and values for each query head, because kernels of some
    GPUs require it. Torch's CPU kernel does not. The setting is an environment variable, read in
    each layer: passes of other threads see it as well. It changes their speed and no result. If the
    variable is set already, it stays as it is.
    """
    if device.type != "cpu" or _SETTING in os.environ:
        yield
        return
    os.environ[_SETTING] = "1"
    try:
        yield
    finally:
        os.environ.pop(_SETTING, None)
