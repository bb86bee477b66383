"""Whether ``tokentiming._native`` can be used: a build may omit it (TOKENTIMING_NATIVE=OFF)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

# Before _native: torch loads the OpenMP runtime that _native then shares, and ops restricts forked
# processes to one thread.
import tokentiming.ops  # noqa: F401

BUILT = find_spec("tokentiming._native") is not None

if TYPE_CHECKING or BUILT:
    from tokentiming import _native


def is_fast() -> bool:
    """Whether the module was built and this processor has AVX2 and FMA (x86-64)."""
    return BUILT and _native.linear_is_fast()


def require_built(function: str) -> None:
    """Refuse a call that needs the module.

    Raises:
        RuntimeError: tokentiming was built without it.
    """
    if not BUILT:
        raise RuntimeError(
            f"{function}: tokentiming was built without tokentiming._native; build it with"
            " -DTOKENTIMING_NATIVE=ON, or run the model with TorchRunner"
        )
