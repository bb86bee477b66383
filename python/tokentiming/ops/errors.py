"""The errors of the operations."""

from tokentiming._core import ArgumentError, ArgumentTypeError, ArgumentValueError

__all__ = ["ArgumentError", "ArgumentTypeError", "ArgumentValueError"]

ArgumentError.__doc__ = """An operation refuses an argument; the message begins with both names."""
ArgumentTypeError.__doc__ = """An argument's type or dtype is wrong, or it is missing."""
ArgumentValueError.__doc__ = """An argument's shape, place in memory or values are wrong."""
