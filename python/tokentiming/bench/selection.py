"""The systems of a benchmark, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import tokentiming
from tokentiming.bench.pair import Pair
from tokentiming.bench.systems import (
    ALONE,
    GENERATE,
    Ours,
    System,
    Transformers,
    assisted,
    prompt_lookup,
)
from tokentiming.decoder import SpeculativeDecoder
from tokentiming.drafters import Drafter, ModelDrafter
from tokentiming.methods import resolve

_NOT_MADE_HERE = ("Drafter", "LlamaCppDrafter")
"""Public names that end in "Drafter" and are no class that a pair can give the arguments for."""

PEERS = {"assisted": assisted, "prompt-lookup": prompt_lookup}


def systems(
    pair: Pair, *, methods: Sequence[str], drafters: Sequence[str], peers: Sequence[str]
) -> list[System]:
    """The systems to compare, the target alone first. No model is loaded yet.

    Greedy decoding is the same for all methods, so it is one system, ``greedy/<drafter>``. Other
    temperatures have one for each method, ``<method>/<drafter>``.

    Args:
        pair: the models.
        methods: keys of ``tokentiming.methods.METHODS``.
        drafters: "model", or the name of a class of ``tokentiming`` without "Drafter", in lower
            case; several joined by "+"; "none" for no drafter, which is the target alone.
        peers: keys of ``PEERS``; "none" is ignored.

    Raises:
        ValueError: a name is unknown.
    """
    for method in methods:
        resolve(method)
    peers = [peer for peer in dict.fromkeys(peers) if peer != "none"]
    if unknown := set(peers) - set(PEERS):
        raise ValueError(
            f"systems: peers holds {', '.join(sorted(unknown))}; choose among {', '.join(PEERS)}"
        )
    alone = Ours(ALONE, pair, _decoder(pair, "none", "coupled"))
    found: list[System] = [Transformers(GENERATE, pair), alone]
    for drafter in dict.fromkeys(drafters):
        if drafter == "none":
            continue
        for part in drafter.split("+"):
            _drafter_class(part)
        decoders = {method: _decoder(pair, drafter, method) for method in methods}
        if not decoders:
            raise ValueError("systems: methods is empty; give at least one, such as coupled")
        greedy = next(iter(decoders.values()))
        found.append(Ours(f"greedy/{drafter}", pair, greedy, sampled=False))
        for method, decoder in decoders.items():
            found.append(Ours(f"{method}/{drafter}", pair, decoder, greedy=False))
    return found + [PEERS[name](pair) for name in peers]


def uses_draft(*, drafters: Sequence[str], peers: Sequence[str]) -> bool:
    """Whether any of these systems needs the pair's draft."""
    return "assisted" in peers or any("model" in drafter.split("+") for drafter in drafters)


def _decoder(pair: Pair, drafter: str, method: str) -> Callable[[], SpeculativeDecoder]:
    """Makes a decoder at the first call, with a drafter of its own."""

    @cache
    def made() -> SpeculativeDecoder:
        names = [] if drafter == "none" else drafter.split("+")
        sources: list[Any] = [_drafter(name, pair) for name in names]
        source: Any = sources if len(sources) > 1 else next(iter(sources), None)
        return SpeculativeDecoder(*pair.target, source, method=method, runner=pair.runner)

    return made


def _drafter(name: str, pair: Pair) -> Drafter:
    kind = _drafter_class(name)
    drafter: Drafter = kind(*pair.draft) if kind is ModelDrafter else kind()
    return drafter


def _drafter_class(name: str) -> Any:
    kinds = {
        public.removesuffix("Drafter").lower(): public
        for public in tokentiming.__all__
        if public.endswith("Drafter") and public not in _NOT_MADE_HERE
    }
    if name not in kinds:
        raise ValueError(f"systems: no drafter is called {name!r}; choose among {', '.join(kinds)}")
    return getattr(tokentiming, kinds[name])
