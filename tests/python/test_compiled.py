"""The operations under torch.compile, for meta tensors, and as torch operators: opcheck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.tables import map_of, table_of
from tokentiming import ops

TABLE = table_of([b"a", b"b", b"c", b"d"])
MAP = map_of([[0], [1], [2], [3]], exact=[0, 1, 2, 3])
IDS = torch.tensor([0, 1, 2])
OFFSETS = torch.tensor([0, 1, 3])
SPANS = torch.tensor([[0, 1], [1, 2], [2, 3]], dtype=torch.int32)
ROWS = torch.full((3, 4), 0.25)
LOGITS = torch.arange(20.0).view(5, 4)
UNIFORMS = torch.full((5,), 0.5)
KEYS, STATES = torch.arange(4), torch.zeros(5, 3, dtype=torch.int64)
PARENTS = torch.tensor([-1, -1, 0], dtype=torch.int32)
FOREST = {"tokens": IDS, "parents": PARENTS, "offsets": OFFSETS}

# Operators: the function, its arguments, and those given by name.
OPERATORS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (ops.sample, (LOGITS, KEYS), {"seed": 2**64 - 1, "states": STATES}),
    (ops.candidates, (LOGITS, KEYS), {"seed": 2**64 - 1, "states": STATES, "count": 2}),
    (
        ops.verify,
        (IDS[None],),
        {
            "target_logits": LOGITS[None, :4],
            "draft_probs": ROWS[None],
            "uniforms": UNIFORMS[None, :4],
            "temperature": 0.5,
        },
    ),
    (
        ops.verify,
        (IDS,),
        {
            "target_logits": LOGITS,
            "draft_probs": ROWS,
            "uniforms": UNIFORMS,
            "temperature": 1.0,
            "offsets": OFFSETS,
        },
    ),
    (ops.walk, (torch.tensor([0, 1, 2, 0, 1]),), FOREST),
]
NAMED = pytest.mark.parametrize(
    ("function", "arguments", "options"),
    OPERATORS,
    ids=[f"{case[0].__name__}{i}" for i, case in enumerate(OPERATORS)],
)

# Operations at which a graph breaks.
SIDES = {"draft_ids": IDS, "target_ids": IDS, "draft_table": TABLE, "target_table": TABLE}
BATCH = {"draft_offsets": OFFSETS, "target_offsets": OFFSETS}
BREAKING: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "align": (ops.align, SIDES),
    "align a batch": (ops.align, SIDES | BATCH | {"band": 2}),
    "align, out=": (
        ops.align,
        SIDES | {"out": ops.Alignment(torch.zeros_like(SPANS), torch.tensor(-1))},
    ),
    "transfer": (
        ops.transfer,
        SIDES | {"draft_probs": ROWS, "target_spans": SPANS, "vocabulary_map": MAP, "columns": 6},
    ),
    "restrict": (
        ops.restrict,
        {"draft_probs": ROWS, "vocabulary_map": MAP, "columns": 6},
    ),
}
EACH_BREAKING = pytest.mark.parametrize("name", BREAKING)


def flat(result: Any) -> tuple[torch.Tensor, ...]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def to_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, torch.Tensor) else value


@NAMED
def test_opcheck(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    signed = {name: -1 if name == "seed" else value for name, value in options.items()}
    operator = getattr(torch.ops.tokentiming, function.__name__).default
    torch.library.opcheck(operator, arguments, signed)


@NAMED
def test_compiled_equals_eager(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    found, expected = compiled(*arguments, **options), function(*arguments, **options)
    for got, wanted in zip(flat(found), flat(expected), strict=True):
        assert torch.equal(got, wanted)


@EACH_BREAKING
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of torch, about the graph that breaks
def test_results_are_right_between_two_graphs(name: str) -> None:
    function, arguments = BREAKING[name]

    def doubled(**given: Any) -> tuple[torch.Tensor, ...]:
        before = {k: v * 1 if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        return tuple(2 * part for part in flat(function(**before)))

    torch._dynamo.reset()
    compiled = torch.compile(doubled, backend="aot_eager")
    expected = [2 * part for part in flat(function(**arguments))]
    for _ in range(2):
        for got, wanted in zip(compiled(**arguments), expected, strict=True):
            assert torch.equal(got, wanted)


@NAMED
def test_meta_tensors_give_shapes_only(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    given = [*map(to_meta, arguments)], {name: to_meta(value) for name, value in options.items()}
    if function is ops.verify and "offsets" in options:
        with pytest.raises(ValueError, match=r"^verify: offsets are meta tensors"):
            function(*given[0], **given[1])
        return
    found, expected = function(*given[0], **given[1]), function(*arguments, **options)
    for got, wanted in zip(flat(found), flat(expected), strict=True):
        assert got.is_meta
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype


@EACH_BREAKING
@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_tensors_without_memory_are_refused_by_name(name: str, kind: str) -> None:
    function, arguments = BREAKING[name]
    for changed, value in arguments.items():
        if not isinstance(value, torch.Tensor):
            continue
        without = to_meta(value) if kind == "meta" else FakeTensorMode().from_tensor(value)
        with pytest.raises(ops.ArgumentValueError, match=rf"^{function.__name__}: {changed} "):
            function(**arguments | {changed: without})


def test_out_is_refused_for_meta_tensors() -> None:
    out = ops.Verification(torch.zeros(1, 4).int(), torch.zeros(1).int())
    with pytest.raises(ValueError, match=r"^verify: out cannot be given"):
        ops.verify(IDS[None].to("meta"), target_logits=LOGITS[None, :4], temperature=0, out=out)


def test_eager_calls_do_not_go_through_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("dispatched")

    monkeypatch.setattr(torch.ops.tokentiming, "sample", fail)
    ops.sample(LOGITS, KEYS, seed=0, states=STATES)
