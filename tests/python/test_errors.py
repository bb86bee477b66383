"""The classes of the operations' errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tokentiming import ops


def sample(**changes: Any) -> torch.Tensor:
    states = torch.zeros(1, 3, dtype=torch.int64)
    good = {"logits": torch.zeros(1, 4), "keys": torch.arange(4), "seed": 0, "states": states}
    return ops.sample(**good | changes)


@pytest.mark.parametrize(
    ("call", "error", "builtin"),
    [
        (lambda: sample(logits=[1.0]), ops.ArgumentTypeError, TypeError),
        (lambda: sample(keys=torch.zeros(4)), ops.ArgumentTypeError, TypeError),
        (lambda: sample(keys=torch.zeros(2, 2)), ops.ArgumentValueError, ValueError),
        (lambda: sample(logits=torch.full((1, 4), math.nan)), ops.ArgumentValueError, ValueError),
        (lambda: sample(seed=-1), ops.ArgumentValueError, ValueError),
        (lambda: ops.verify(torch.zeros(1, 1)), ops.ArgumentTypeError, TypeError),
    ],
)
def test_classes(call: Callable[[], Any], error: type[Exception], builtin: type[Exception]) -> None:
    with pytest.raises(ops.ArgumentError, match=r"^(sample|verify): ") as caught:
        call()
    assert type(caught.value) is error
    assert isinstance(caught.value, builtin)
