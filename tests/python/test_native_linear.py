"""``native_linear``: when ``_native`` computes linear layers, under torch.compile too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.small_models import SIZES
from tokentiming import _native
from tokentiming.runners import linear as module
from tokentiming.runners import native, native_module, runner_for
from tokentiming.runners.linear import native_linear
from tokentiming.runners.native import NativeRunner
from tokentiming.runners.torch import TorchRunner

EMBEDDING = torch.zeros(3, 8).bfloat16()
X, WEIGHT = torch.full((2, 3, 8), 0.5).bfloat16(), torch.arange(32.0).view(4, 8).bfloat16()
BIAS = torch.arange(4.0).bfloat16()


def fast_linear(embedding: Tensor, rows: int) -> AbstractContextManager:
    """The context of a pass over a number of rows."""
    context = native_linear(embedding)
    return nullcontext() if context is None else context(rows)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each call of ``_native.linear``; its portable variant serves if there is no other."""
    seen: list[int] = []

    def linear(x: Tensor, *others: Tensor | None) -> None:
        seen.append(x.shape[0])
        _native.linear(x, *others)

    processor(monkeypatch, "AVX2", ["avx2", "portable"], linear)
    return seen


def processor(
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    variants: list[str],
    linear: Callable[..., None] = _native.linear,
) -> None:
    """Take this processor for another one."""
    replaced = SimpleNamespace(linear=linear, variants=lambda: variants)
    monkeypatch.setattr(module, "_native", replaced)
    monkeypatch.setattr(module, "is_fast", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def exact(x: Tensor, bias: Tensor | None) -> Tensor:
    """The products are small integers and halves, which no rounding changes."""
    return functional.linear(x.float(), WEIGHT.float(), None if bias is None else bias.float())


@pytest.mark.parametrize("bias", [BIAS, None])
def test_linear_layers_are_computed_by_native(rows: list[int], bias: Tensor | None) -> None:
    with fast_linear(EMBEDDING, rows=6):
        result = functional.linear(X, WEIGHT, bias)
        assert torch.equal(functional.relu(-result), torch.zeros_like(result))  # torch's own
    assert rows == [6]
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, exact(X, bias).bfloat16())


def test_other_layers_stay_with_torch(rows: list[int]) -> None:
    with fast_linear(EMBEDDING, rows=6):
        functional.linear(X.float(), WEIGHT.float())
        functional.linear(X[..., :4], WEIGHT[:, :4])  # not contiguous
    assert rows == []


def test_one_row_of_a_small_model_stays_with_torch(rows: list[int]) -> None:
    assert isinstance(fast_linear(EMBEDDING, rows=1), nullcontext)
    assert isinstance(fast_linear(torch.zeros(3, 1024), rows=1), nullcontext)  # float32
    assert not isinstance(fast_linear(torch.zeros(3, 1024).bfloat16(), rows=1), nullcontext)


def test_processors_on_which_torch_is_fast_keep_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "AVX512", ["avx512", "avx2", "portable"])
    assert native_linear(EMBEDDING) is None


@pytest.mark.parametrize(("fastest", "many"), [("avx512bf16", True), ("amx", False)])
def test_torch_computes_many_rows_with_avx512_and_without_amx(
    monkeypatch: pytest.MonkeyPatch, fastest: str, many: bool
) -> None:
    processor(monkeypatch, "AVX512", [fastest, "avx512", "avx2", "portable"])
    kept = [isinstance(fast_linear(EMBEDDING, rows), nullcontext) for rows in (1, 2, 64, 65, 1000)]
    assert kept == [True, False, False, many, many]
    assert not isinstance(fast_linear(torch.zeros(3, 1024).bfloat16(), rows=1), nullcontext)


def test_processors_without_a_fast_variant_keep_torch(
    rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_fast", lambda: False)
    assert isinstance(fast_linear(EMBEDDING, rows=6), nullcontext)


def test_native_runner_runs_nothing_without_a_fast_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).to(torch.bfloat16).eval()
    monkeypatch.setattr(native, "is_fast", lambda: True)
    assert NativeRunner.runs(model)
    monkeypatch.setattr(native, "is_fast", lambda: False)
    assert not NativeRunner.runs(model)
    assert type(runner_for(model)) is TorchRunner


def test_the_result_is_in_cpu_memory_for_any_default_device(rows: list[int]) -> None:
    try:
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float64)
        with fast_linear(EMBEDDING, rows=6):
            result = functional.linear(X, WEIGHT, BIAS)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert rows == [6]
    assert (result.device.type, result.dtype) == ("cpu", torch.bfloat16)
    assert torch.equal(result, exact(X, BIAS).bfloat16())


@pytest.mark.parametrize("bias", [BIAS, None])
def test_the_operator_passes_opcheck(bias: Tensor | None) -> None:
    torch.library.opcheck(torch.ops.tokentiming.native_linear.default, (X[0], WEIGHT, bias))


def test_a_compiled_layer_equals_an_eager_one(rows: list[int]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(functional.linear, backend="aot_eager", fullgraph=True)
    with fast_linear(EMBEDDING, rows=6):
        found = compiled(X, WEIGHT, BIAS)
        assert rows == [6]
        assert torch.equal(found, functional.linear(X, WEIGHT, BIAS))


def test_meta_tensors_give_shapes(rows: list[int]) -> None:
    with fast_linear(EMBEDDING, rows=6):
        found = functional.linear(X.to("meta"), WEIGHT.to("meta"), BIAS.to("meta"))
    assert (found.is_meta, found.shape, found.dtype) == (True, (2, 3, 4), torch.bfloat16)
    assert rows == []


def test_this_build_has_the_module() -> None:
    assert native_module.BUILT
    assert native_module.is_fast() == _native.linear_is_fast()


# What a build with TOKENTIMING_NATIVE=OFF does: Python finds no tokentiming._native.
NOT_BUILT = """
import sys
sys.modules["tokentiming._native"] = None
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from tests.support.small_models import SIZES
from tokentiming.runners import runner_for
from tokentiming.runners.linear import native_linear
from tokentiming.runners.native import NativeRunner
from tokentiming.runners.torch import TorchRunner
from tokentiming.tokens.tree import Tree

torch.backends.cpu.get_cpu_capability = lambda: "AVX2"
model = LlamaForCausalLM(LlamaConfig(**SIZES)).to(torch.bfloat16).eval()
assert native_linear(model.get_input_embeddings().weight) is None
assert not NativeRunner.runs(model)
assert type(runner_for(model)) is TorchRunner
assert TorchRunner(model).read([[1, 2, 3]], [Tree()])[0].isfinite().all()
try:
    NativeRunner(model)
except RuntimeError as error:
    assert str(error).startswith("NativeRunner: tokentiming was built without"), error
    assert "-DTOKENTIMING_NATIVE=ON" in str(error), error
else:
    raise AssertionError("not refused")
"""


def test_a_build_without_the_module_uses_torch_and_says_so() -> None:
    subprocess.run(
        [sys.executable, "-c", NOT_BUILT], env=os.environ.copy(), check=True, timeout=120
    )
