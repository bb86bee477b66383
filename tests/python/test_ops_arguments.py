"""Every argument of every operation, replaced by each kind of thing that it should not be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.argument_kinds import (
    LIKE_NUMBERS,
    LIKE_TENSORS,
    at,
    good_calls,
    is_table,
    kinds_for,
    parts_of,
    places_of,
    replaced,
    rows,
)
from tokentiming import ops

# Arguments for which a kind that is usually refused is valid.
WELCOME = {
    *((f"{call}{out}", name, "None")
      for call, names in {
          "align": ["out"],
          "transfer": ["columns", "out"],
          "verify": ["draft_logits", "out"],
          "verify, ragged": ["draft_probs"],
          "restrict": ["out"],
          "sample": ["out"],
          "walk": ["out"],
          "candidates": ["out"],
      }.items()
      for name in names
      for out in ("", ", out=")),
    *((f"align{out}", "band", "2**40") for out in ("", ", out=")),
    *((call, "seed", kind)
      for call in ("sample", "sample, out=", "candidates", "candidates, out=", "log_noise")
      for kind in ("2**40", "2**63")),
    *((f"verify{out}", "temperature", kind)
      for out in ("", ", out=")
      for kind in ("2**40", "2**63", "2**64", "fraction")),
}  # fmt: skip


def is_welcome(call: str, place: str, kind: str, old: Any) -> bool:
    if (call, place, kind) in WELCOME:
        return True
    if isinstance(old, Tensor):
        if kind == "read-only array" and place.startswith("out"):
            return False
        one_byte = old.element_size() == 1
        return kind in LIKE_TENSORS or (kind == "swapped array" and one_byte)
    return not parts_of(old) and kind in LIKE_NUMBERS


def flat(result: Any) -> list[Tensor]:
    if is_table(result):
        return list(parts_of(result).values())
    parts = result if isinstance(result, tuple) else (result,)
    return [part if isinstance(part, Tensor) else torch.from_dlpack(part) for part in parts]


def assert_refused(function: Callable[..., Any], arguments: dict[str, Any], place: str) -> None:
    with pytest.raises(ops.ArgumentError) as caught:
        function(**arguments)
    message = str(caught.value)
    assert message.startswith(f"{function.__qualname__}: ")
    assert place.rpartition(".")[2] in message


@pytest.mark.parametrize(("call", "place", "kind"), rows(good_calls()))
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, for making some of the kinds
def test_every_argument_of_every_kind(call: str, place: str, kind: str) -> None:
    function, arguments = good_calls()[call]
    old = at(arguments, place)
    changed = replaced(arguments, place, kinds_for(old)[kind](old))
    if not is_welcome(call, place, kind, old):
        assert_refused(function, changed, place)
        return
    expected, found = flat(function(**arguments)), flat(function(**changed))
    assert [t.shape for t in found] == [t.shape for t in expected]
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    if isinstance(old, Tensor) and kind != "None":
        assert all(map(torch.equal, found, expected))


def to_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    parts = parts_of(value)
    return type(value)(*map(to_meta, parts.values())) if parts else value


def to_arrays(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.numpy()
    parts = parts_of(value)
    return type(value)(*map(to_arrays, parts.values())) if parts else value


RECORDED = {
    "verify": "draft_ids",
    "sample": "logits",
    "walk": "picked",
    "candidates": "logits",
}


@pytest.mark.parametrize(
    ("call", "place", "kind"),
    # Without the argument that shows that there is no memory.
    [row for row in rows(RECORDED) if row[1] != RECORDED[row[0]]],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_argument_beside_meta_tensors(call: str, place: str, kind: str) -> None:
    function, arguments = good_calls()[call]
    old = at(arguments, place)
    meta = {name: to_meta(value) for name, value in arguments.items()}
    changed = replaced(meta, place, kinds_for(old)[kind](old))
    if isinstance(old, Tensor):
        welcome = kind == "meta" or (call, place, kind) in WELCOME
    else:
        welcome = is_welcome(call, place, kind, old)
    if not welcome:
        assert_refused(function, changed, place)
        return
    for found, expected in zip(flat(function(**changed)), flat(function(**meta)), strict=True):
        assert found.is_meta
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


@pytest.mark.parametrize("call", good_calls())
def test_arrays_give_tensors_in_cpu_memory_for_any_default_device(call: str) -> None:
    function, arguments = good_calls()[call]
    expected = flat(function(**arguments))
    arrays = {name: to_arrays(v) for name, v in arguments.items() if name != "out"}
    try:
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.bfloat16)
        result = function(**arrays)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for found, wanted in zip(flat(result), expected, strict=True):
        assert type(found) is Tensor
        assert found.device.type == "cpu"
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("operation", [ops.transfer, ops.restrict])
def test_float64_arrays_give_float64(operation: Callable[..., Any]) -> None:
    _, arguments = good_calls()[operation.__name__]
    rows = arguments["draft_probs"].double().numpy()
    assert flat(operation(**arguments | {"draft_probs": rows}))[0].dtype == torch.float64


def on_one_memory(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The same two tensors from one address on; the second has its values."""
    memory = torch.zeros(256, dtype=torch.uint8)
    views = [
        memory[: t.numel() * t.element_size()].view(t.dtype).view(t.shape) for t in (first, second)
    ]
    views[1].copy_(second)
    return views[0], views[1]


def overlaps() -> Iterator[tuple[str, str, str]]:
    for call, (_, arguments) in good_calls().items():
        tensors = [
            place for place in places_of(arguments) if isinstance(at(arguments, place), Tensor)
        ]
        for output in tensors:
            if output.startswith("out"):
                yield from ((call, output, other) for other in tensors if other != output)


@pytest.mark.parametrize(("call", "output", "other"), list(overlaps()))
def test_an_output_shares_memory_with_nothing(call: str, output: str, other: str) -> None:
    function, arguments = good_calls()[call]
    out, shared = on_one_memory(at(arguments, output), at(arguments, other))
    changed = replaced(replaced(arguments, output, out), other, shared)
    with pytest.raises(ops.ArgumentValueError, match="shares memory with") as caught:
        function(**changed)
    assert str(caught.value).startswith(f"{function.__name__}: out")
    assert {output, other} <= set(str(caught.value).replace(";", "").split())
