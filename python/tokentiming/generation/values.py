"""Values of arguments of `generate` that would fail only while models run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch

from tokentiming.scalars import integer

_FORCED = ("forced_bos_token_id", "forced_eos_token_id")
_IDS = ("eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens", *_FORCED)
_LEAST = -(2**63)
"""Ids below 0 are allowed: an eos_token_id of -1 ends no text."""


def refuse_values(settings: Mapping[str, Any]) -> None:
    """Refuse arguments and settings of a wrong type.

    Raises:
        TypeError: an element of a list of processors or criteria, or a constraint, cannot be
            called, or a number is of another type.
        ValueError: the number of sequences is below 1.
    """
    for name in ("logits_processor", "stopping_criteria"):
        for i, step in enumerate(settings.get(name) or ()):
            if not callable(step):
                raise TypeError(
                    f"generate: {name}[{i}] is a {type(step).__name__}; give objects that can be "
                    "called with ids and scores"
                )
    allowed = settings.get("prefix_allowed_tokens_fn")
    if allowed is not None and not callable(allowed):
        raise TypeError(
            f"generate: prefix_allowed_tokens_fn is a {type(allowed).__name__}; give a function of "
            "a row and ids that returns the allowed ids"
        )
    seconds = settings.get("max_time")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, Real)):
        raise TypeError(
            f"generate: max_time is {seconds!r}, a {type(seconds).__name__}; give seconds"
        )
    if settings.get("num_return_sequences") is not None:
        integer(settings["num_return_sequences"], "num_return_sequences", least=1)
    for name in _IDS:
        for one in _listed(settings.get(name)):
            integer(one, name, least=_LEAST)


def refuse_forced_ids(settings: Mapping[str, Any], size: int) -> None:
    """Refuse forced ids that are not among the target's 0 to ``size - 1``."""
    for name in _FORCED:
        for one in _listed(settings.get(name)):
            value = integer(one, name, least=0)
            if value >= size:
                raise ValueError(
                    f"generate: {name} is {value}, outside the target's 0..{size - 1}; give an id "
                    "of the target"
                )


def _listed(ids: Any) -> list[Any]:
    """One id, several or none, as a list."""
    if isinstance(ids, torch.Tensor):
        ids = ids.tolist()
    if ids is None:
        return []
    return list(ids) if isinstance(ids, Sequence) and not isinstance(ids, str) else [ids]
