"""Values of arguments of `generate` that would fail in transformers, or only while models run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from numbers import Real
from typing import Any

import torch

from tokentiming.scalars import integer

_LEAST = -(2**63)
"""Ids below 0 are allowed: an eos_token_id of -1 ends no text."""
_INTEGERS = {
    "top_k": 0,
    "min_length": _LEAST,
    "min_new_tokens": _LEAST,
    "no_repeat_ngram_size": _LEAST,
    "encoder_no_repeat_ngram_size": _LEAST,
    "num_return_sequences": 1,
}
"""The least value of each; some are off if they are not positive, or False."""

_POSITIVE = frozenset({"repetition_penalty", "encoder_repetition_penalty"})
_NUMBERS = _POSITIVE | {
    "temperature",
    "top_p",
    "top_h",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "guidance_scale",
    "max_time",
}
_FORCED = ("forced_bos_token_id", "forced_eos_token_id")
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", *_FORCED)
_LISTS_OF_IDS = ("suppress_tokens", "begin_suppress_tokens")


def refuse_values(settings: Mapping[str, Any]) -> None:
    """Refuse arguments and settings of a wrong type.

    Raises:
        TypeError: an element of a list of processors or criteria, or a constraint, cannot be
            called, or a number is of another type.
        ValueError: a number is out of range.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    for name in ("logits_processor", "stopping_criteria"):
        for i, step in enumerate(given.get(name, ())):
            if not callable(step):
                _refuse(f"{name}[{i}]", step, "an object that can be called with ids and scores")
    allowed = given.get("prefix_allowed_tokens_fn")
    if allowed is not None and not callable(allowed):
        _refuse("prefix_allowed_tokens_fn", allowed, "a function of a row and ids")
    for name in _INTEGERS.keys() & given.keys():
        if given[name] is not False:
            integer(given[name], name, least=_INTEGERS[name])
    for name in _NUMBERS & given.keys():
        _check_number(given[name], name)
    for name in given.keys() & {*_IDS, *_LISTS_OF_IDS}:
        if name in _LISTS_OF_IDS and not hasattr(given[name], "__iter__"):
            _refuse(name, given[name], "a list of ids")
        for one in _listed(given[name]):
            integer(one, name, least=_LEAST)
    if "exponential_decay_length_penalty" in given:
        _check_decay(given["exponential_decay_length_penalty"])
    marks = given.get("watermarking_config", {})
    if not isinstance(marks, Mapping) and not hasattr(marks, "construct_processor"):
        _refuse("watermarking_config", marks, "a WatermarkingConfig")


def refuse_ids(settings: Mapping[str, Any], size: int) -> None:
    """Refuse ids of processors that are not among the target's 0 to ``size - 1``."""
    biased = settings.get("sequence_bias") or ()
    sequences = biased if isinstance(biased, Mapping) else [one[0] for one in biased]
    found = {
        "sequence_bias": [token for ids in sequences for token in ids],
        "bad_words_ids": [token for ids in settings.get("bad_words_ids") or () for token in ids],
        **{name: _listed(settings.get(name)) for name in _FORCED},
    }
    for name, ids in found.items():
        for one in ids:
            value = integer(one, name, least=0)
            if value >= size:
                raise ValueError(
                    f"generate: {name} holds {value}, outside the target's 0..{size - 1}; give ids "
                    "of the target"
                )


@dataclass(frozen=True)
class Allowed:
    """A user's ``prefix_allowed_tokens_fn``, whose answers are checked."""

    function: Callable[[int, torch.Tensor], Any]
    size: int
    """Number of ids of the target."""

    def __call__(self, row: int, ids: torch.Tensor) -> Any:
        answer = self.function(row, ids)
        if not self._selects(answer):
            raise ValueError(
                f"generate: prefix_allowed_tokens_fn returned {answer!r}; return a list of the "
                f"target's ids, 0..{self.size - 1}"
            )
        return answer

    def _selects(self, answer: Any) -> bool:
        """Whether columns of the scores can be selected by it: by ids, or by a mask."""
        try:
            chosen = torch.as_tensor(answer if hasattr(answer, "shape") else list(answer))
        except (TypeError, ValueError, RuntimeError):
            return False
        if chosen.dtype == torch.bool:
            return chosen.shape == (self.size,)
        if not chosen.numel():
            return True
        if chosen.ndim != 1 or chosen.is_floating_point() or chosen.is_complex():
            return False
        return -self.size <= int(chosen.min()) <= int(chosen.max()) < self.size


def _check_number(value: Any, name: str) -> None:
    if getattr(value, "shape", None) == ():  # a tensor or an array of one number
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        _refuse(name, value, "a number")
    if isnan(value) or (name in _POSITIVE and not 0 < value < inf):
        way_out = "a positive number" if name in _POSITIVE else "a number"
        raise ValueError(f"generate: {name} is {value}; give {way_out}")


def _check_decay(value: Any) -> None:
    name = "exponential_decay_length_penalty"
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
        _refuse(name, value, "(start, factor)")
    for i in range(2):
        _check_number(value[i], f"{name}[{i}]")


def _refuse(name: str, value: Any, wanted: str) -> None:
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiou" else "a"
    raise TypeError(f"generate: {name} is {value!r}, {article} {kind}; give {wanted}")


def _listed(ids: Any) -> list[Any]:
    """One id, several or none, as a list."""
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    if ids is None:
        return []
    return list(ids) if isinstance(ids, Sequence | set) and not isinstance(ids, str) else [ids]
