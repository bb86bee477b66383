"""Arguments of ``_native.linear``, replaced by everything that they should not be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.argument_kinds import LIKE_TENSORS, kinds_for
from tests.support.growth import ALLOWED, CALLS, growth, needs_proc
from tokentiming import _native


def layer() -> dict[str, Tensor]:
    """Good arguments of ``linear``; all sizes differ."""
    return {
        "input": torch.ones(2, 3).bfloat16(),
        "weight": torch.ones(4, 3).bfloat16(),
        "bias": torch.ones(4).bfloat16(),
        "out": torch.zeros(2, 4).bfloat16(),
    }


def linear(arguments: dict[str, Any]) -> Tensor:
    out = arguments["out"]
    _native.linear(*arguments.values())
    return out if isinstance(out, Tensor) else torch.from_dlpack(out)


ROWS = [(name, kind) for name, value in layer().items() for kind in kinds_for(value)]


@pytest.mark.parametrize(("name", "kind"), ROWS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, for making some of the kinds
def test_every_argument_of_every_kind(name: str, kind: str) -> None:
    arguments = layer()
    changed = arguments | {name: kinds_for(arguments[name])[kind](arguments[name])}
    if (name, kind) == ("bias", "None"):
        assert torch.equal(linear(changed), torch.full((2, 4), 3.0).bfloat16())
    elif kind in LIKE_TENSORS:
        assert torch.equal(linear(changed), torch.full((2, 4), 4.0).bfloat16())
    else:
        with pytest.raises((TypeError, ValueError), match=f"^linear: {name} "):
            _native.linear(*changed.values())
        assert not arguments["out"].any()


def sharing() -> Iterator[tuple[str, int]]:
    for name, value in layer().items():
        if name != "out":
            yield from ((name, shift) for shift in (0, 7, 1 - value.numel()))


@pytest.mark.parametrize(("name", "shift"), list(sharing()))
def test_out_shares_memory_with_no_input(name: str, shift: int) -> None:
    arguments = layer()
    memory = torch.ones(40).bfloat16()
    shared = arguments[name]
    arguments["out"] = memory[16:24].view(2, 4)
    start = 16 + shift
    arguments[name] = memory[start : start + shared.numel()].view(shared.shape)
    with pytest.raises(ValueError, match=f"^linear: out shares memory with {name};"):
        _native.linear(*arguments.values())
    assert (memory == 1).all()


def test_memory_beside_the_inputs_can_take_the_result() -> None:
    memory = torch.ones(40).bfloat16()
    arguments = layer() | {"out": memory[16:24].view(2, 4), "bias": memory[24:28]}
    arguments["input"] = memory[10:16].view(2, 3)
    assert torch.equal(linear(arguments), torch.full((2, 4), 4.0).bfloat16())


def test_errors_are_the_builtin_classes() -> None:
    with pytest.raises(TypeError) as wrong_dtype:
        linear(layer() | {"input": torch.ones(2, 3)})
    assert type(wrong_dtype.value) is TypeError
    with pytest.raises(ValueError, match=r"^linear: weight must have K = 3, got 2$") as wrong_size:
        linear(layer() | {"weight": torch.ones(4, 2).bfloat16()})
    assert type(wrong_size.value) is ValueError


def refused() -> None:
    with pytest.raises(TypeError, match=r"^linear: input"):
        linear(layer() | {"input": None})
    with pytest.raises(ValueError, match=r"^linear: out"):
        linear(layer() | {"out": torch.zeros(2, 3).bfloat16()})


GOOD = layer()


@needs_proc
def test_memory_does_not_grow_with_calls() -> None:
    assert growth(lambda: _native.linear(*GOOD.values()), CALLS) < ALLOWED
    assert growth(refused, CALLS // 20) < ALLOWED
