"""Valid calls of every operation, and valid and invalid replacements of their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import tokenizers
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.tables import map_of, table_of
from tokentiming import ops


class OnlyDlpack:
    """The interface that the operations need of another library's tensors."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()


class Broken(OnlyDlpack):
    def __dlpack__(self, **options: Any) -> Any:
        raise ZeroDivisionError("broken")


class NoCapsule(OnlyDlpack):
    def __dlpack__(self, **options: Any) -> Any:
        return None


class Unready:
    """An object whose attributes cannot be read."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} yet")


class Subclass(Tensor):
    pass


TOKENIZER = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))


def read_only(tensor: Tensor) -> np.ndarray:
    array = tensor.numpy().copy()
    array.flags.writeable = False
    return array


def strided(tensor: Tensor) -> Tensor:
    return torch.stack((tensor, tensor), -1)[..., 0]


# In place of a tensor.
TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "None": lambda _: None,
    "int": lambda _: 3,
    "float": lambda _: math.nan,
    "bool": lambda _: True,
    "huge int": lambda _: 2**100,
    "str": lambda _: "text",
    "bytes": lambda _: b"text",
    "list": Tensor.tolist,
    "tuple": lambda tensor: tuple(tensor),
    "dict": lambda tensor: {"tensor": tensor},
    "object": lambda _: object(),
    "class": lambda _: Tensor,
    "array class": lambda _: np.ndarray,
    "unready": lambda _: Unready(),
    "tokenizer": lambda _: TOKENIZER,
    "several tensors": lambda tensor: ops.Transfer(tensor, tensor),
    "table": lambda _: table_of([b"a", b"b"]),
    "0 dimensions": lambda tensor: tensor.flatten()[0],
    "4 dimensions": lambda tensor: tensor.reshape(1, 1, 1, -1),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "boolean": Tensor.bool,
    "int16": Tensor.short,
    "strided": strided,
    "expanded": lambda tensor: tensor[:1].expand(2**40, *tensor.shape[1:]),
    "sparse": Tensor.to_sparse,
    "meta": lambda tensor: tensor.to("meta"),
    "fake": lambda tensor: FakeTensorMode().from_tensor(tensor),
    "nested": lambda tensor: torch.nested.nested_tensor([tensor]),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor.float(), 1, 0, torch.quint8),
    "requires grad": lambda tensor: tensor.float().requires_grad_(),
    "negated": lambda tensor: torch._neg_view(tensor.float()),
    "subclass": lambda tensor: tensor.as_subclass(Subclass),
    "array": lambda tensor: tensor.numpy().copy(),
    "read-only array": read_only,
    "array of objects": lambda tensor: np.array(tensor.tolist(), dtype=object),
    "array of text": lambda tensor: np.array(tensor.tolist()).astype(str),
    "array of complex": lambda tensor: tensor.float().numpy().astype(np.complex64),
    "array of 0 dimensions": lambda _: np.array(3),
    "swapped array": lambda tensor: tensor.numpy().astype(tensor.numpy().dtype.newbyteorder(">")),
    "dlpack": OnlyDlpack,
    "broken dlpack": Broken,
    "dlpack without a capsule": NoCapsule,
}
LIKE_TENSORS = {"subclass", "array", "read-only array", "dlpack"}

# In place of a table or a map.
TABLES: dict[str, Callable[[Any], Any]] = {
    "None": lambda _: None,
    "int": lambda _: 3,
    "float": lambda _: math.nan,
    "bool": lambda _: True,
    "str": lambda _: "text",
    "tuple": lambda table: tuple(parts_of(table).values()),
    "list": lambda table: list(parts_of(table).values()),
    "dict": lambda table: parts_of(table),
    "object": lambda _: object(),
    "class": type,
    "tensor": lambda table: next(iter(parts_of(table).values())),
    "array": lambda table: next(iter(parts_of(table).values())).numpy(),
    "another table": lambda table: (
        map_of([[0], [1]]) if isinstance(table, ops.ByteTable) else table_of([b"a", b"b"])
    ),
    "several tensors": lambda _: ops.Verification(torch.zeros(2), torch.zeros(2)),
    "unready": lambda _: Unready(),
    "tokenizer": lambda _: TOKENIZER,
}

# In place of several results.
PARTS: dict[str, Callable[[Any], Any]] = {
    "None": lambda _: None,
    "int": lambda _: 3,
    "float": lambda _: math.nan,
    "bool": lambda _: True,
    "str": lambda _: "text",
    "tuple": tuple,
    "list": list,
    "dict": lambda parts: parts._asdict(),
    "object": lambda _: object(),
    "class": type,
    "tensor": lambda parts: parts[0],
    "array": lambda parts: parts[0].numpy(),
    "another table": lambda _: ops.Verification(torch.zeros(2), torch.zeros(2)),
    "unready": lambda _: Unready(),
    "tokenizer": lambda _: TOKENIZER,
}

# In place of a number.
NUMBERS: dict[str, Callable[[Any], Any]] = {
    "None": lambda _: None,
    "-1": lambda _: -1,
    "2**40": lambda _: 2**40,
    "2**63": lambda _: 2**63,
    "2**64": lambda _: 2**64,
    "10**5000": lambda _: 10**5000,
    "fraction": lambda _: 1.5,
    "nan": lambda _: math.nan,
    "inf": lambda _: math.inf,
    "bool": lambda _: True,
    "complex": lambda _: 1j,
    "str": lambda _: "1",
    "bytes": lambda _: b"1",
    "list": lambda value: [value],
    "dict": lambda _: {},
    "object": lambda _: object(),
    "class": lambda _: int,
    "unready": lambda _: Unready(),
    "tokenizer": lambda _: TOKENIZER,
    "two": lambda _: torch.tensor([1, 2]),
    "two in an array": lambda _: np.array([1, 2]),
    "NumPy's": lambda value: np.array(value)[()],
    "tensor": torch.tensor,
}
LIKE_NUMBERS = {"NumPy's", "tensor"}


def good_calls() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Each operation with and without optional arguments; sizes of two and more, all different."""
    ids, int32 = torch.tensor([0, 1, 0]), torch.int32
    table = table_of([b"a", b"b"])
    pairs = torch.tensor([[0, 1], [1, 2], [0, 1]], dtype=int32)
    starts = torch.tensor([0, 2, 3])
    rows = torch.full((3, 2), 0.5)
    same = map_of([[0], [1]], exact=[0, 1])
    align = {"draft_ids": ids, "target_ids": ids, "draft_table": table, "target_table": table}
    batch = {"draft_offsets": starts, "target_offsets": starts}
    alignment = ops.Alignment(torch.zeros(3, 2, dtype=int32), torch.zeros(2, dtype=torch.int64))
    transfer = {
        "draft_probs": rows,
        "draft_ids": ids,
        "target_ids": ids,
        "target_spans": pairs,
        "draft_table": table,
        "target_table": table,
        "vocabulary_map": same,
        **batch,
    }
    moved = ops.Transfer(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int8))
    padded = {
        "draft_ids": torch.zeros(2, 3, dtype=torch.int64),
        "target_logits": torch.zeros(2, 4, 5),
        "draft_logits": torch.zeros(2, 3, 5),
        "uniforms": torch.full((2, 4), 0.5),
        "temperature": 1.0,
    }
    ragged = {
        "draft_ids": ids,
        "target_probs": torch.full((5, 2), 0.5),
        "draft_probs": rows,
        "uniforms": torch.full((5,), 0.5),
        "offsets": starts,
    }
    verified = ops.Verification(torch.zeros(2, 4, dtype=int32), torch.zeros(2, dtype=int32))
    states = torch.zeros(3, 3, dtype=torch.int64)
    noise = {"keys": torch.arange(2), "seed": 1, "states": states}
    drawn = torch.zeros(3, dtype=torch.int64)
    led = ops.Candidates(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2))
    restrict = {"draft_probs": rows, "vocabulary_map": same, "columns": 4}
    forest = {
        "picked": torch.tensor([0, 1, 0, 1, 0, 1]),
        "tokens": torch.tensor([0, 1, 0, 1]),
        "parents": torch.tensor([-1, 0, -1, 0], dtype=int32),
        "offsets": torch.tensor([0, 2, 4]),
    }
    walked = ops.Walk(
        torch.zeros(6, dtype=torch.int64),
        torch.zeros(4, dtype=int32),
        torch.zeros(2, dtype=int32),
    )
    return {
        "align": (ops.align, align | batch | {"band": 8}),
        "align, out=": (ops.align, align | batch | {"band": 8, "out": alignment}),
        "transfer": (ops.transfer, transfer | {"columns": 2}),
        "transfer, out=": (ops.transfer, transfer | {"out": moved}),
        "verify": (ops.verify, padded),
        "verify, out=": (ops.verify, padded | {"out": verified}),
        "verify, ragged": (ops.verify, ragged),
        "restrict": (ops.restrict, restrict),
        "restrict, out=": (ops.restrict, restrict | {"out": torch.zeros(3, 4)}),
        "sample": (ops.sample, noise | {"logits": rows}),
        "sample, out=": (ops.sample, noise | {"logits": rows, "out": drawn}),
        "candidates": (ops.candidates, noise | {"logits": rows, "count": 2}),
        "candidates, out=": (ops.candidates, noise | {"logits": rows, "count": 2, "out": led}),
        "log_noise": (ops.log_noise, noise),
        "walk": (ops.walk, forest),
        "walk, out=": (ops.walk, forest | {"out": walked}),
        "ByteTable": (ops.ByteTable, parts_of(table)),
        "VocabularyMap": (ops.VocabularyMap, parts_of(map_of([[0, 1], [1], []]))),
    }


_TABLE_PARTS = {
    ops.ByteTable: ("bytes", "offsets"),
    ops.VocabularyMap: ("exact", "first", "expansion_offsets", "expansion_ids"),
}


def parts_of(value: Any) -> dict[str, Tensor]:
    """The tensors of a table, a map or several results."""
    if is_table(value):
        return {name: getattr(value, name) for name in _TABLE_PARTS[type(value)]}
    return value._asdict() if hasattr(value, "_asdict") else {}


def is_table(value: Any) -> bool:
    return type(value) in _TABLE_PARTS


def kinds_for(value: Any) -> dict[str, Callable[[Any], Any]]:
    if isinstance(value, Tensor):
        if value.dtype == torch.bfloat16:  # which NumPy does not have
            return {kind: make for kind, make in TENSORS.items() if "array" not in kind}
        return TENSORS
    if is_table(value):
        return TABLES
    return PARTS if parts_of(value) else NUMBERS


def places_of(arguments: dict[str, Any]) -> Iterator[str]:
    """The names of the arguments; tensors of an argument that has several follow a dot."""
    for name, value in arguments.items():
        yield name
        yield from (f"{name}.{part}" for part in parts_of(value))


def at(arguments: dict[str, Any], place: str) -> Any:
    name, _, part = place.partition(".")
    return getattr(arguments[name], part) if part else arguments[name]


def replaced(arguments: dict[str, Any], place: str, new: Any) -> dict[str, Any]:
    name, _, part = place.partition(".")
    old = arguments[name]
    return arguments | {name: type(old)(**parts_of(old) | {part: new}) if part else new}


def rows(calls: Collection[str]) -> list[tuple[str, str, str]]:
    """Calls, places of their arguments, and kinds to put there.

    The tensors of a table are arguments of the call that makes it.
    """
    return [
        (call, place, kind)
        for call, (_, arguments) in good_calls().items()
        if call in calls
        for place in places_of(arguments)
        if not is_table(arguments[place.partition(".")[0]]) or "." not in place
        for kind in kinds_for(at(arguments, place))
    ]
