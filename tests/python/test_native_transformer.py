"""Arguments of ``_native.Transformer``, replaced by everything that they should not be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.argument_kinds import LIKE_TENSORS, kinds_for
from tests.support.growth import ALLOWED, CALLS, growth, needs_proc
from tokentiming import _native
from tokentiming.runners.native_module import is_fast

needs_avx2 = pytest.mark.skipif(not is_fast(), reason="Transformer needs AVX2 and FMA")


def model() -> dict[str, Any]:
    """Good arguments of ``Transformer``: V = 5, hidden = 16, one head of 8."""

    def projection(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
        return torch.ones(outputs, inputs).bfloat16(), torch.ones(outputs).bfloat16()

    norm = torch.ones(16).bfloat16()
    return {
        "embedding": torch.ones(5, 16).bfloat16(),
        "layers": [
            (
                norm,
                *(projection(8, 16) for _ in range(3)),
                projection(16, 8),
                norm,
                projection(24, 16),
                projection(24, 16),
                projection(16, 24),
            )
        ],
        "final_norm": norm,
        "head": torch.ones(5, 16).bfloat16(),
        "rotation": [1.0, 0.1, 0.01, 0.001],
        "rotation_scale": 1.0,
        "heads": 1,
        "key_heads": 1,
        "norm_epsilon": 1e-5,
        "rounded": True,
    }


NAMES = ("attention_norm", "query", "key", "value", "output", "mlp_norm", "gate", "up", "down")


def with_part(index: int, part: Any) -> dict[str, Any]:
    """The arguments with one part of the layer replaced."""
    arguments = model()
    parts = list(arguments["layers"][0])
    parts[index] = part
    return arguments | {"layers": [tuple(parts)]}


def test_transformer_is_refused_exactly_where_it_cannot_compute() -> None:
    if is_fast():
        assert _native.Transformer(*model().values()).sequences() == 0
        return
    with pytest.raises(ValueError, match=r"^transformer: needs AVX2 and FMA on x86-64"):
        _native.Transformer(*model().values())


@needs_avx2
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"embedding": torch.ones(5, 16)}, TypeError, "embedding must be bfloat16, got float32"),
        ({"embedding": [1.0]}, TypeError, "embedding must be a tensor, got list"),
        ({"embedding": torch.ones(16).bfloat16()}, ValueError, r"embedding must have shape \[V, h"),
        ({"final_norm": torch.ones(16)}, TypeError, "final_norm must be bfloat16"),
        ({"final_norm": torch.ones(15).bfloat16()}, ValueError, "final_norm must have 16 entries"),
        ({"head": torch.ones(5, 15).bfloat16()}, ValueError, "head must have 16 columns, got 15"),
        ({"head": torch.ones(4, 16).bfloat16()}, ValueError, "head must have one output for each"),
        ({"head": torch.full((5, 16), math.nan).bfloat16()}, ValueError, "head holds NaN"),
        ({"layers": [(1, 2)]}, TypeError, "layers must hold tuples of 9 entries"),
        ({"layers": [3]}, TypeError, "layers must hold tuples of 9 entries"),
        ({"rotation": [1.0] * 3}, ValueError, "output must have 6 columns, got 8"),
        ({"key_heads": 0}, ValueError, "heads must be a multiple of key_heads"),
    ],
)
def test_transformer_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^transformer: {message}"):
        _native.Transformer(*(model() | changes).values())


@needs_avx2
@pytest.mark.parametrize("index", range(9))
def test_transformer_refuses_each_part_of_a_layer_by_name(index: int) -> None:
    name = NAMES[index]
    good = model()["layers"][0][index]
    is_norm = isinstance(good, Tensor)
    weight = good if is_norm else good[0]
    wrong_dtype = weight.float() if is_norm else (weight.float(), None)
    strided = weight[..., ::2] if is_norm else (weight.T.contiguous().T, None)
    with pytest.raises(TypeError, match=f"^transformer: {name} must be bfloat16, got float32"):
        _native.Transformer(*with_part(index, wrong_dtype).values())
    with pytest.raises(ValueError, match=f"^transformer: {name} must"):
        _native.Transformer(*with_part(index, strided).values())
    if not is_norm:
        with pytest.raises(ValueError, match=f"^transformer: {name} must have {len(weight)} ent"):
            _native.Transformer(*with_part(index, (weight, good[1][1:])).values())
        with pytest.raises(TypeError, match=f"^transformer: {name} must hold tuples of 2 entries"):
            _native.Transformer(*with_part(index, weight).values())
        infinite = torch.full_like(weight, math.inf)
        with pytest.raises(ValueError, match=f"^transformer: {name} holds NaN or infinity"):
            _native.Transformer(*with_part(index, (infinite, None)).values())


def rows() -> dict[str, Tensor]:
    """Good arguments of ``Transformer.read``: two sequences, the second with a tree."""
    return {
        "tokens": torch.tensor([1, 2, 3]),
        "parents": torch.tensor([-1, -1, -1], dtype=torch.int32),
        "offsets": torch.tensor([0, 1, 3]),
        "logits": torch.full((2, 5), 7.0),
        "wanted": torch.tensor([0, 2]),
    }


READ = [(name, kind) for name, value in rows().items() for kind in kinds_for(value)]


@needs_avx2
@pytest.mark.parametrize(("name", "kind"), READ)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, for making some of the kinds
def test_every_argument_of_read_of_every_kind(name: str, kind: str) -> None:
    transformer = _native.Transformer(*model().values())
    arguments = rows()
    changed = arguments | {name: kinds_for(arguments[name])[kind](arguments[name])}
    if kind in LIKE_TENSORS and (name, kind) != ("logits", "read-only array"):
        transformer.read(*changed.values())
        assert [transformer.pending(sequence) for sequence in range(2)] == [1, 2]
    else:
        with pytest.raises((TypeError, ValueError), match=f"^transformer: {name} "):
            transformer.read(*changed.values())
        assert transformer.sequences() == 0
        assert (arguments["logits"] == 7).all()


@needs_avx2
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokens": torch.tensor([1, 2, 5])}, ValueError, r"tokens\[2\] is 5, outside 0\.\.4"),
        ({"tokens": torch.tensor([-1, 2, 3])}, ValueError, r"tokens\[0\] is -1, outside 0\.\.4"),
        ({"tokens": torch.tensor([1, 2])}, ValueError, "parents has 3 entries and tokens 2"),
        ({"parents": torch.tensor([-1, 0, 0])}, TypeError, "parents must be int32, got int64"),
        ({"parents": torch.tensor([-1, 0, 0]).int()}, ValueError, r"parents\[1\] is 0, outside"),
        ({"offsets": torch.tensor([0, 4, 3])}, ValueError, "offsets must ascend from 0 to the 3"),
        ({"offsets": torch.tensor([[0, 3]])}, ValueError, r"offsets must have shape \[S \+ 1\]"),
        ({"logits": torch.ones(2, 4)}, ValueError, "logits must have one column for each token"),
        ({"logits": torch.ones(3, 5)}, ValueError, "logits has 3 rows; 2 are wanted"),
        ({"logits": torch.ones(2, 10)[:, ::2]}, ValueError, "logits must be contiguous"),
        ({"wanted": torch.tensor([2, 0])}, ValueError, "wanted must ascend within the 3 rows"),
        ({"wanted": torch.tensor([0, 3])}, ValueError, "wanted must ascend within the 3 rows"),
    ],
)
def test_read_refuses_and_reads_nothing(
    changes: dict[str, Tensor], error: type[Exception], message: str
) -> None:
    transformer = _native.Transformer(*model().values())
    with pytest.raises(error, match=f"^transformer: {message}"):
        transformer.read(*(rows() | changes).values())
    assert transformer.sequences() == 0


@needs_avx2
def test_logits_share_no_memory_with_the_rows() -> None:
    memory = torch.zeros(20, dtype=torch.int64)
    arguments = rows() | {
        "tokens": memory[:3],
        "logits": memory.view(torch.float32)[:10].view(2, 5),
    }
    with pytest.raises(ValueError, match=r"^transformer: logits shares memory with tokens;"):
        _native.Transformer(*model().values()).read(*arguments.values())


@needs_avx2
def test_sequences_are_kept_truncated_and_dropped() -> None:
    transformer = _native.Transformer(*model().values())
    transformer.read(*rows().values())
    with pytest.raises(TypeError, match=r"^transformer: nodes must be int64, got int32"):
        transformer.keep(1, torch.tensor([1]).int())
    with pytest.raises(ValueError, match=r"^transformer: nodes must have shape \[n\]"):
        transformer.keep(1, torch.tensor([[1]]))
    with pytest.raises(ValueError, match=r"^transformer: nodes\[1\] is 1, a child of -1"):
        transformer.keep(1, torch.tensor([0, 1]))
    transformer.keep(1, torch.tensor([1]))
    assert [transformer.length(1), transformer.pending(1)] == [1, 0]
    with pytest.raises(ValueError, match=r"^transformer: length is 2, more than the 1 tokens"):
        transformer.truncate(1, 2)
    transformer.truncate(0, 0)
    assert transformer.pending(0) == 0
    transformer.drop(0)
    assert [transformer.sequences(), transformer.length(0)] == [1, 1]
    with pytest.raises(ValueError, match=r"^transformer: sequence is 1, but there are 1$"):
        transformer.drop(1)
    transformer.clear()
    assert transformer.sequences() == 0


@needs_avx2
def test_computed_keys_and_values_are_committed() -> None:
    transformer = _native.Transformer(*model().values())
    transformer.read(*rows().values())
    computed = torch.ones(1, 2, 8)
    with pytest.raises(ValueError, match=r"^transformer: commit needs a sequence without pending"):
        transformer.commit(1, computed, computed)
    transformer.keep(1, torch.tensor([1]))
    transformer.commit(1, computed, computed)
    assert [transformer.length(1), transformer.pending(1)] == [3, 0]
    with pytest.raises(TypeError, match=r"^transformer: keys must be float32, got bfloat16"):
        transformer.commit(1, computed.bfloat16(), computed)
    with pytest.raises(ValueError, match=r"^transformer: values must have shape \[layers, T"):
        transformer.commit(1, computed, computed[0])
    for keys, values in ((computed, computed[:, :1]), (computed[..., :7].contiguous(),) * 2):
        with pytest.raises(ValueError, match=r"^transformer: keys and values must have shape"):
            transformer.commit(1, keys, values)
    assert transformer.length(1) == 3


@needs_avx2
@needs_proc
def test_memory_does_not_grow_with_transformers() -> None:
    arguments = model()
    forest, path = rows(), torch.tensor([1])

    def read() -> None:
        transformer = _native.Transformer(*arguments.values())
        transformer.read(*forest.values())
        transformer.keep(1, path)
        transformer.truncate(0, 0)
        transformer.drop(0)

    assert growth(read, CALLS // 20) < ALLOWED
