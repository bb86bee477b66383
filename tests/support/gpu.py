"""What tests on a GPU need, and why they are skipped where it is missing."""

from __future__ import annotations

import pytest
import torch

from tokentiming import ops


def _missing() -> str:
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return "" if ops.has_cuda() else "tokentiming was built without CUDA"


NEEDED = [pytest.mark.gpu, pytest.mark.skipif(bool(_missing()), reason=_missing())]
