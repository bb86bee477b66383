"""What the operations raise."""

from tokentiming._core import ArgumentError, ArgumentTypeError, ArgumentValueError

__all__ = ["ArgumentError", "ArgumentTypeError", "ArgumentValueError"]

ArgumentError.__doc__ = """An operation refuses an argument; its message begins with their names."""
ArgumentTypeError.__doc__ = """An argument's type or dtype is wrong, or it is missing."""
ArgumentValueError.__doc__ = """An argument's shape, place in memory or values are wrong."""
