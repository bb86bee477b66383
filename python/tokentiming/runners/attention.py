"""How transformers' ``sdpa`` attention treats heads that share keys and values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

_SETTING = "TRANSFORMERS_SDPA_FORCE_GQA"
_lock = Lock()
_inside = 0
"""Number of contexts that need the setting, in all threads."""


@contextmanager
def shared_heads(device: torch.device, *, rows: int) -> Iterator[None]:
    """A context for a pass in which heads share keys and values on a CPU under a mask too.

    For several rows with a mask, transformers copies keys and values for each query head, because
    kernels of some GPUs require it. Torch's CPU kernel does not, and gives the same bits. A pass
    over a single row is left as it is: transformers copies nothing then.

    The setting is an environment variable of the process, which transformers reads in each layer.
    Passes of other threads see it as well. A value that the user has set stays.

    Args:
        device: of the model.
        rows: of each text.
    """
    if device.type != "cpu" or rows == 1 or not _enter():
        yield
        return
    try:
        yield
    finally:
        _leave()


def _enter() -> bool:
    """Make the setting, unless the user has set it."""
    global _inside
    with _lock:
        if not _inside:
            if _SETTING in os.environ:
                return False
            os.environ[_SETTING] = "1"
        _inside += 1
        return True


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if not _inside:
            os.environ.pop(_SETTING, None)
