"""Checks of single arguments."""

from __future__ import annotations

from operator import index
from typing import Any


def type_of(value: Any) -> str:
    """The class of a value with an article, for errors.

    >>> type_of(3), type_of("3")
    ('an int', 'a str')
    """
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def integer(value: Any, name: str, *, least: int, caller: str = "generate") -> int:
    """Read an integer argument of any type, NumPy integers and tensors included.

    Args:
        value: the argument.
        name: of the argument, for errors.
        least: the least value allowed.
        caller: the function, whose name errors begin with.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is below ``least``.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        result = index(value)
    except TypeError:
        raise TypeError(
            f"{caller}: {name} is {value!r}, {type_of(value)}; give an integer"
        ) from None
    if result < least:
        raise ValueError(f"{caller}: {name} is {result}; give at least {least}")
    return result


def seed(value: Any, name: str = "seed") -> int:
    """Read a seed, 0 to 2**63 - 1."""
    result = integer(value, name, least=0)
    if result >= 2**63:
        raise ValueError(f"generate: {name} is {result}; give 0 to 2**63 - 1")
    return result


def refuse_class(value: Any, name: str, *, caller: str) -> None:
    """Refuse a class in place of an object of it."""
    if isinstance(value, type):
        raise TypeError(
            f"{caller}: {name} is the class {value.__name__}; give an object, such as "
            f"{value.__name__}(...)"
        )
