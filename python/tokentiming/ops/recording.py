"""Calls as torch operators, for torch.compile and for tensors that have a shape but no memory."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from tokentiming.ops.errors import ArgumentTypeError, ArgumentValueError
from tokentiming.ops.tracing import compiling, refuse_out

_BYTES, _INT32, _INT64 = (torch.uint8,), (torch.int32,), (torch.int64,)
_IDS = (torch.int32, torch.int64)
_WIDE = (torch.float32, torch.float64)
_ROWS = (torch.float16, torch.bfloat16, *_WIDE)
_Tensors = dict[str, tuple[str, str, tuple[torch.dtype, ...]]]

_TABLES: _Tensors = {
    "draft_bytes": ("draft_vocab.bytes", "[N]", _BYTES),
    "draft_starts": ("draft_vocab.offsets", "[V + 1]", _INT64),
    "target_bytes": ("target_vocab.bytes", "[N]", _BYTES),
    "target_starts": ("target_vocab.offsets", "[V + 1]", _INT64),
}
_SEQUENCES: _Tensors = {
    "draft_ids": ("draft_ids", "[K]", _IDS),
    "target_ids": ("target_ids", "[M]", _IDS),
    "draft_offsets": ("draft_offsets", "[B + 1]", _INT64),
    "target_offsets": ("target_offsets", "[B + 1]", _INT64),
}
_ORIGINS: _Tensors = {
    "origin_offsets": ("origins.offsets", "[T + 1]", _INT32),
    "origin_ids": ("origins.draft_ids", "[N]", _INT32),
}
_TENSORS: dict[str, _Tensors] = {
    "align": {**_SEQUENCES, **_TABLES},
    "sample": {
        "logits": ("logits", "[R, V]", _ROWS),
        "keys": ("keys", "[N]", _INT64),
        "states": ("states", "[R, 3]", _INT64),
    },
    "verify": {
        "draft_ids": ("draft_ids", "[T] or [B, K]", _IDS),
        "target_logits": ("target_logits", "[T + B, V] or [B, K + 1, V]", _ROWS),
        "target_probs": ("target_probs", "[T + B, V] or [B, K + 1, V]", _ROWS),
        "draft_logits": ("draft_logits", "[T, V] or [B, K, V]", _ROWS),
        "draft_probs": ("draft_probs", "[T, V] or [B, K, V]", _ROWS),
        "uniforms": ("uniforms", "[T + B] or [B, K + 1]", _WIDE),
        "offsets": ("offsets", "[B + 1]", _INT64),
    },
    "transfer": {
        "draft_probs": ("draft_probs", "[K, V_d]", _WIDE),
        "target_spans": ("target_spans", "[M, 2]", _INT32),
        "first": ("expansions.first", "[D]", _IDS),
        "expansion_offsets": ("expansions.expansion_offsets", "[D + 1]", _INT64),
        "expansion_ids": ("expansions.expansion_ids", "[E]", _IDS),
        **_SEQUENCES,
        **_TABLES,
        **_ORIGINS,
    },
    "restrict": {
        "draft_probs": ("draft_probs", "[R, V_d]", _WIDE),
        "exact": ("exact", "[D]", _IDS),
        **_ORIGINS,
    },
}
"""Of each operator's tensors what the function calls them, their shapes, and their dtypes."""

_REQUIRED = {
    "align": {"draft_ids", "target_ids", *_TABLES},
    "sample": set(_TENSORS["sample"]),
    "verify": {"draft_ids"},  # and what the function itself has asked for
    "transfer": set(_TENSORS["transfer"]) - {"draft_offsets", "target_offsets", *_ORIGINS},
    "restrict": {"draft_probs", "exact"},
}
_LIMITS = {"band": 2**63, "columns": 2**31, "seed": 2**64}


def record(function: str, out: object, **arguments: Any) -> Any:
    """What the operator gives for the arguments, which are named as in its schema.

    Under torch.compile the arguments are left to the operator, which meets them when it runs.
    """
    refuse_out(function, next(iter(arguments)), out)
    if not compiling():
        _check(function, arguments)
    if "seed" in arguments:  # an operator's integers are signed
        seed = arguments["seed"]
        if not 0 <= seed < 2**64:
            raise ArgumentValueError(f"{function}: seed is {seed}; it must be in [0, 2**64)")
        arguments["seed"] = seed if seed < 2**63 else seed - 2**64
    run = getattr(torch.ops.tokentiming, function)
    try:
        return run(**arguments)
    except Exception:
        if not compiling():
            _require_alike(function, arguments, "fake", lambda value: isinstance(value, FakeTensor))
        raise


def _check(function: str, arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if name in _TENSORS[function]:
            if value is not None or name in _REQUIRED[function]:
                _check_tensor(function, *_TENSORS[function][name], value)
        elif name == "temperature":
            arguments[name] = number(function, name, value)
        else:
            arguments[name] = integer(function, name, value)
    _require_alike(function, arguments, "meta", lambda tensor: tensor.is_meta)


def _require_alike(
    function: str, arguments: dict[str, Any], kind: str, is_kind: Callable[[Tensor], bool]
) -> None:
    """Refuse tensors of a kind beside others."""
    named = {
        _TENSORS[function][name][0]: value
        for name, value in arguments.items()
        if isinstance(value, Tensor)
    }
    of_kind = [name for name, value in named.items() if is_kind(value)]
    others = [name for name, value in named.items() if not is_kind(value)]
    if of_kind and others:
        raise ArgumentValueError(
            f"{function}: {of_kind[0]} is a {kind} tensor, {others[0]} is not;"
            " all have to be on one device"
        )


def _check_tensor(
    function: str, name: str, axes: str, dtypes: tuple[torch.dtype, ...], value: Any
) -> None:
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(
            f"{function}: {name} must be a torch tensor beside tensors without memory,"
            f" got {type(value).__name__}"
        )
    dimensions = [1 + shape.count(",") for shape in axes.split(" or ")]
    if value.ndim not in dimensions:
        raise ArgumentValueError(
            f"{function}: {name} must have shape {axes}, got {value.ndim} dimensions"
        )
    if value.dtype not in dtypes:
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ArgumentTypeError(f"{function}: {name} must be {expected}, got {value.dtype}")
    if axes.endswith(" + 1]") and value.ndim == 1 and len(value) == 0:
        raise ArgumentValueError(f"{function}: {name} must have {axes[1:-1]} entries, got none")


def integer(function: str, name: str, value: Any) -> int | torch.SymInt:
    """The value as the core would take it."""
    if isinstance(value, torch.SymInt):
        return value
    try:
        if isinstance(value, bool):
            raise TypeError
        found = operator.index(value)
    except Exception as error:
        raise ArgumentTypeError(
            f"{function}: {name} must be an integer, got {type(value).__name__}"
        ) from error
    if not 0 <= found < _LIMITS[name]:
        limit = f"2**{_LIMITS[name].bit_length() - 1}"
        shown = found if abs(found) < 2**64 else "beyond 64 bits"
        raise ArgumentValueError(f"{function}: {name} is {shown}; it must be in [0, {limit})")
    return found


def number(function: str, name: str, value: Any) -> float | torch.SymFloat:
    """The value as the core would take it."""
    if isinstance(value, torch.SymFloat):
        return value
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        found = float(value)
    except OverflowError as error:
        raise ArgumentValueError(f"{function}: {name} is beyond the range of a float") from error
    except Exception as error:
        raise ArgumentTypeError(
            f"{function}: {name} must be a number, got {type(value).__name__}"
        ) from error
    if not 0 <= found < math.inf:
        raise ArgumentValueError(f"{function}: {name} is {found}; it must be 0 or more")
    return found
