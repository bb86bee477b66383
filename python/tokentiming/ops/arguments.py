"""What the core cannot see of a call's arguments, and the results that they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from tokentiming import _core
from tokentiming.ops.errors import ArgumentTypeError, ArgumentValueError

_VOCABULARY = ("bytes", "offsets"), "give a Vocabulary or another ops.ByteTable"
_PARTS = {
    ("align", "out"): (("target_spans", "cost"), "give an ops.Alignment(...)"),
    ("transfer", "out"): (("probs", "cases"), "give an ops.Transfer(...)"),
    ("verify", "out"): (("tokens", "accepted"), "give an ops.Verification(...)"),
    ("align", "draft_vocab"): _VOCABULARY,
    ("align", "target_vocab"): _VOCABULARY,
    ("transfer", "draft_vocab"): _VOCABULARY,
    ("transfer", "target_vocab"): _VOCABULARY,
    ("transfer", "expansions"): (
        ("first", "expansion_offsets", "expansion_ids"),
        "give a VocabularyMap or another ops.Expansions",
    ),
}


def require_parts(function: str, **arguments: Any) -> None:
    """Refuse an argument that lacks one of its tensors.

    To be asked once a call has failed: a good call goes straight to the attributes.
    """
    for name, value in arguments.items():
        if name != "out" or value is not None:
            _require_parts(function, name, value)


def _require_parts(function: str, name: str, value: Any) -> None:
    attributes, way_out = _PARTS[function, name]
    for attribute in attributes:
        try:
            getattr(value, attribute)
        except Exception as error:  # noqa: PERF203 - the call has failed
            raise ArgumentTypeError(
                f"{function}: {name} has no {attribute}, got {type(value).__name__}; {way_out}"
            ) from error


def dtype_of(function: str, argument: str, rows: Any) -> torch.dtype:
    """The dtype of a result like these rows, of which the core takes float32 and float64."""
    found = rows.dtype if isinstance(rows, Tensor) else _core.dtype(rows, function, argument)
    return torch.float64 if found in (torch.float64, "float64") else torch.float32


def as_tensor(value: Any) -> Tensor:
    """A torch tensor on the memory of what the core has found to be a tensor."""
    return value if isinstance(value, Tensor) else from_dlpack(value)


def new(
    function: str, arguments: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A tensor for a result, as large as the arguments, those named, ask for."""
    try:
        return torch.empty(shape, dtype=dtype, device=device)
    except torch.OutOfMemoryError:  # a GPU's, which may have room for it later
        raise
    except RuntimeError as error:
        raise ArgumentValueError(
            f"{function}: no result of shape {list(shape)} can be made for {arguments}:"
            f" {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """What torch says, without its native stack."""
    return str(error).split("\n", 1)[0]
