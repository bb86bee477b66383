"""Integers among a user's arguments."""

from __future__ import annotations

from operator import index
from typing import Any


def integer(value: Any, name: str, *, least: int, caller: str = "generate") -> int:
    """An argument that is an integer of any type, NumPy's and tensors' included.

    Raises:
        TypeError: it is none.
        ValueError: it is below the least.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        result = index(value)
    except TypeError:
        raise TypeError(
            f"{caller}: {name} is {value!r}, a {type(value).__name__}; give an integer"
        ) from None
    if result < least:
        raise ValueError(f"{caller}: {name} is {result}; give at least {least}")
    return result


def seed(value: Any) -> int:
    """A seed that fits the noise's key."""
    result = integer(value, "seed", least=0)
    if result >= 2**63:
        raise ValueError(f"generate: seed is {result}; give 0 to 2**63 - 1")
    return result
