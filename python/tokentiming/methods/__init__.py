"""How proposals are chosen and judged: one file a method."""

from __future__ import annotations

from tokentiming.methods.base import Choice, Method, TargetRows
from tokentiming.methods.coupled import Coupled
from tokentiming.methods.greedy import Greedy
from tokentiming.methods.slem import Slem

METHODS: dict[str, type[Method]] = {"coupled": Coupled, "slem": Slem}

__all__ = ["METHODS", "Choice", "Coupled", "Greedy", "Method", "Slem", "TargetRows", "check_name"]


def check_name(name: str) -> str:
    """The name itself, should there be such a method.

    Raises:
        ValueError: there is none.
    """
    if name not in METHODS:
        raise ValueError(
            f"SpeculativeDecoder: method is {name!r}; choose one of {', '.join(sorted(METHODS))}"
        )
    return name
