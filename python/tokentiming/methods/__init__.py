"""How tokens are proposed and verified: one file per method."""

from __future__ import annotations

from tokentiming.methods.base import BoundMethod, Method, TargetRows
from tokentiming.methods.coupled import Coupled
from tokentiming.methods.greedy import Greedy
from tokentiming.methods.proposal import Proposal
from tokentiming.methods.pushforward import Pushforward
from tokentiming.methods.slem import Slem
from tokentiming.methods.slrs import Slrs
from tokentiming.methods.tli import Tli
from tokentiming.methods.tokentiming import PointMass, TokenTiming

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Coupled, Slem, Slrs, Tli, Pushforward, TokenTiming)
}

__all__ = [
    "METHODS",
    "BoundMethod",
    "Coupled",
    "Greedy",
    "Method",
    "PointMass",
    "Proposal",
    "Pushforward",
    "Slem",
    "Slrs",
    "TargetRows",
    "Tli",
    "TokenTiming",
    "resolve",
]


def resolve(method: str | Method) -> Method:
    """A method by its name, with default settings, or the method itself.

    Raises:
        TypeError: it is neither a name nor a method.
        ValueError: no method has this name.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise TypeError(
            f"SpeculativeDecoder: method is {method!r}; give a name, or an object of a class in "
            "tokentiming.methods"
        )
    if method not in METHODS:
        raise ValueError(
            f"SpeculativeDecoder: method is {method!r}; choose one of {', '.join(sorted(METHODS))}"
        )
    return METHODS[method]()
