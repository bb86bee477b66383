"""The operations' errors: their classes, the names in them, and exceptions that pass through."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.argument_kinds import OnlyDlpack, good_calls, parts_of
from tokentiming import ops


def sample(**changes: Any) -> torch.Tensor:
    states = torch.zeros(1, 3, dtype=torch.int64)
    good = {"logits": torch.zeros(1, 4), "keys": torch.arange(4), "seed": 0, "states": states}
    return ops.sample(**good | changes)


@pytest.mark.parametrize(
    ("call", "error", "builtin"),
    [
        (lambda: sample(logits=[1.0]), ops.ArgumentTypeError, TypeError),
        (lambda: sample(keys=torch.zeros(4)), ops.ArgumentTypeError, TypeError),
        (lambda: sample(keys=torch.zeros(2, 2)), ops.ArgumentValueError, ValueError),
        (lambda: sample(logits=torch.full((1, 4), math.nan)), ops.ArgumentValueError, ValueError),
        (lambda: sample(seed=-1), ops.ArgumentValueError, ValueError),
        (lambda: ops.verify(torch.zeros(1, 1)), ops.ArgumentTypeError, TypeError),
    ],
)
def test_classes(call: Callable[[], Any], error: type[Exception], builtin: type[Exception]) -> None:
    with pytest.raises(ops.ArgumentError, match=r"^(sample|verify): ") as caught:
        call()
    assert type(caught.value) is error
    assert isinstance(caught.value, builtin)


@pytest.mark.parametrize("out", [True, False])
@pytest.mark.parametrize("call", ["align", "transfer", "verify, ragged", "walk"])
def test_offsets_are_checked_before_memory_is_allocated(call: str, out: bool) -> None:
    function, arguments = good_calls()[call]
    name = "offsets" if "offsets" in arguments else "target_offsets"
    given = {"out": function(**arguments)} if out else {}
    far = torch.tensor([0, 2**40, 3])
    for wrong in (far, far[:2], far - 2**62, far.flip(0), far[:0], torch.tensor([1, 2, 3])):
        with pytest.raises(
            ops.ArgumentValueError, match=f"^{function.__name__}: {name} (must|has)"
        ):
            function(**arguments | given | {name: wrong.contiguous()})


@pytest.mark.parametrize(
    ("call", "name", "way_out"),
    [
        ("align, out=", "out", r"ops\.Alignment"),
        ("transfer, out=", "out", r"ops\.Transfer"),
        ("verify, out=", "out", r"ops\.Verification"),
        ("walk, out=", "out", r"ops\.Walk"),
        ("align", "draft_table", r"ops\.ByteTable, such as vocabulary\.table"),
        ("transfer", "target_table", r"ops\.ByteTable, such as vocabulary\.table"),
        ("transfer", "vocabulary_map", r"ops\.VocabularyMap, such as VocabularyMap\.build"),
        ("restrict", "vocabulary_map", r"ops\.VocabularyMap, such as VocabularyMap\.build"),
    ],
)
def test_a_plain_tuple_is_refused_with_the_way_out(call: str, name: str, way_out: str) -> None:
    function, arguments = good_calls()[call]
    with pytest.raises(
        ops.ArgumentTypeError, match=f"^{function.__name__}: {name} .*got tuple; .*{way_out}"
    ):
        function(**arguments | {name: tuple(parts_of(arguments[name]).values())})


def test_columns_and_out_agree() -> None:
    function, arguments = good_calls()["transfer, out="]
    with pytest.raises(ValueError, match=r"^transfer: out.probs has 2 columns, columns is 3"):
        function(**arguments, columns=3)
    assert function(**arguments, columns=2) is arguments["out"]


def test_a_result_too_large_for_memory_is_an_argument_error() -> None:
    function, arguments = good_calls()["restrict"]
    rows = torch.full((1, 2), 0.5).expand(2**20, 2)
    with pytest.raises(ValueError, match=r"^restrict: no result of .* draft_probs and columns"):
        function(**arguments | {"draft_probs": rows, "columns": 2**31 - 1})


class Used(OnlyDlpack):
    def __dlpack__(self, **options: Any) -> Any:
        capsule = self._tensor.__dlpack__()
        torch.from_dlpack(capsule)
        return capsule


class Interrupted(OnlyDlpack):
    def __dlpack__(self, **options: Any) -> Any:
        raise KeyboardInterrupt

    __index__ = __float__ = __dlpack__


class NeedsNoGradient(Tensor):
    requires_grad = False


class Stubborn(Tensor):
    def is_neg(self) -> bool:
        raise NotImplementedError("not asked yet\nnative stack")


def test_invalid_tensors_of_other_libraries() -> None:
    function, arguments = good_calls()["sample"]
    logits = arguments["logits"]
    with pytest.raises(ValueError, match=r"^sample: logits cannot be read: .* no DLPack capsule"):
        function(**arguments | {"logits": Used(logits)})
    with pytest.raises(ValueError, match=r"^sample: logits cannot be read: not asked yet$"):
        function(**arguments | {"logits": logits.as_subclass(Stubborn)})
    same = function(**arguments | {"logits": logits.as_subclass(NeedsNoGradient)})
    assert torch.equal(same, function(**arguments))


@pytest.mark.parametrize(
    ("call", "name"), [("sample", "logits"), ("sample", "seed"), ("verify", "temperature")]
)
def test_an_interrupt_propagates(call: str, name: str) -> None:
    function, arguments = good_calls()[call]
    with pytest.raises(KeyboardInterrupt):
        function(**arguments | {name: Interrupted(torch.zeros(3))})


# Looks up the cached facts about a tensor's type while a call with another type replaces them: in
# the same thread, where it happens every time, and from other threads. Freed memory is overwritten
# and not cached by threads, so that a use after free is detected.
MANY_TYPES = """
import sys, threading, time
import numpy as np
import torch
from tokentiming import ops

sys.setswitchinterval(1e-6)
rows = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
keys, states = torch.arange(3), torch.zeros(1, 3, dtype=torch.int64)
arrays = rows.numpy(), keys.numpy(), states.numpy()
expected = ops.sample(rows, keys, seed=7, states=states)

def check(rows, keys=keys, states=states):
    assert torch.equal(ops.sample(rows, keys, seed=7, states=states), expected)

def ask_another_type():  # not with a torch tensor, whose type would reuse the freed memory
    out = np.zeros(1, dtype=np.int64)
    assert ops.sample(arrays[0], arrays[1], seed=7, states=arrays[2], out=out) == expected.numpy()

class Asking(type(torch.Tensor)):
    def __getattribute__(cls, name):
        if name == "is_neg":
            ask_another_type()
        return super().__getattribute__(name)

class Reentrant(torch.Tensor, metaclass=Asking):
    @property
    def requires_grad(self):
        ask_another_type()
        return False

    def is_neg(self):
        ask_another_type()
        return False

class Slow(torch.Tensor):
    @property
    def requires_grad(self):
        return any(() for _ in range(20))

    def is_neg(self):
        return any(() for _ in range(20))

for _ in range(100):
    check(rows.as_subclass(Reentrant))
    check(rows.as_subclass(type("New", (Reentrant,), {})))

end = time.monotonic() + 1
finished = []

def repeat(make):
    while time.monotonic() < end:
        check(*make())
    finished.append(make)

slow = rows.as_subclass(Slow)
threads = [
    threading.Thread(target=repeat, args=(make,))
    for make in (
        lambda: (slow,),
        lambda: (rows.as_subclass(type("New", (Slow,), {})),),
        lambda: arrays,
        lambda: (rows,),
    )
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(finished) == 4
"""


def test_tensor_types_are_freed() -> None:
    watched = {"MALLOC_PERTURB_": "165", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    command = [sys.executable, "-c", MANY_TYPES]
    subprocess.run(command, env=os.environ | watched, check=True, timeout=120)
