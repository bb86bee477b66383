"""The operations as torch operators: opcheck, torch.compile and meta tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.tables import Map, Table
from tokentiming import ops

TABLE = Table(torch.tensor(list(b"abcd"), dtype=torch.uint8), torch.arange(5))
MAP = Map(torch.arange(4), torch.arange(5), torch.arange(4))
IDS = torch.tensor([0, 1, 2])
OFFSETS = torch.tensor([0, 1, 3])
SPANS = torch.tensor([[0, 1], [1, 2], [2, 3]], dtype=torch.int32)
ROWS = torch.full((3, 4), 0.25)
LOGITS = torch.arange(20.0).view(5, 4)
UNIFORMS = torch.full((5,), 0.5)
KEYS, STATES = torch.arange(4), torch.zeros(5, 3, dtype=torch.int64)

# Each operator, its arguments, and the function that stands before it.
CASES: list[tuple[str, tuple[Any, ...], Callable[..., Any]]] = [
    (
        "align",
        (IDS, IDS, *TABLE, *TABLE, 8, None, None),
        lambda d, t, db, ds, tb, ts, band, do, to: ops.align(
            d, t, Table(db, ds), Table(tb, ts), band=band, draft_offsets=do, target_offsets=to
        ),
    ),
    (
        "align",
        (IDS, IDS, *TABLE, *TABLE, 8, OFFSETS, OFFSETS),
        lambda d, t, db, ds, tb, ts, band, do, to: ops.align(
            d, t, Table(db, ds), Table(tb, ts), band=band, draft_offsets=do, target_offsets=to
        ),
    ),
    (
        "sample",
        (LOGITS, KEYS, -1, STATES),
        lambda logits, keys, seed, states: ops.sample(
            logits, keys, seed=seed % 2**64, states=states
        ),
    ),
    (
        "verify",
        (IDS[None], LOGITS[None, :4], None, None, ROWS[None], UNIFORMS[None, :4], 0.5, None),
        lambda ids, logits, _p, _l, probs, u, temperature, _o: ops.verify(
            ids, target_logits=logits, draft_probs=probs, uniforms=u, temperature=temperature
        ),
    ),
    (
        "verify",
        (IDS, LOGITS, None, None, ROWS, UNIFORMS, 1.0, OFFSETS),
        lambda ids, logits, _p, _l, probs, u, temperature, offsets: ops.verify(
            ids, target_logits=logits, draft_probs=probs, uniforms=u, offsets=offsets
        ),
    ),
    (
        "transfer",
        (ROWS, IDS, IDS, SPANS, *TABLE, *TABLE, *MAP, None, None, 6),
        lambda rows, d, t, s, db, ds, tb, ts, f, eo, ei, _d, _t, columns: ops.transfer(
            rows, d, t, s, Table(db, ds), Table(tb, ts), Map(f, eo, ei), columns=columns
        ),
    ),
    (
        "restrict",
        (ROWS, MAP.first, 6),
        lambda rows, exact, columns: ops.restrict(rows, exact, columns=columns),
    ),
]
NAMED = pytest.mark.parametrize(
    ("name", "arguments", "function"), CASES, ids=[f"{c[0]}{i}" for i, c in enumerate(CASES)]
)


def flat(result: Any) -> tuple[torch.Tensor, ...]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


@NAMED
def test_opcheck(name: str, arguments: tuple[Any, ...], function: Callable[..., Any]) -> None:
    torch.library.opcheck(getattr(torch.ops.tokentiming, name).default, arguments)


@NAMED
def test_compiled_equals_eager(
    name: str, arguments: tuple[Any, ...], function: Callable[..., Any]
) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for got, expected in zip(flat(compiled(*arguments)), flat(function(*arguments)), strict=True):
        assert torch.equal(got, expected)


@NAMED
def test_meta_tensors_have_shapes_alone(
    name: str, arguments: tuple[Any, ...], function: Callable[..., Any]
) -> None:
    to_meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments]
    if name == "verify" and arguments[-1] is not None:
        with pytest.raises(ValueError, match=r"^verify: offsets are meta tensors"):
            function(*to_meta)
        return
    for got, expected in zip(flat(function(*to_meta)), flat(function(*arguments)), strict=True):
        assert got.is_meta
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype


def test_out_is_refused_where_nothing_is_written() -> None:
    with pytest.raises(ValueError, match=r"^restrict: out cannot be given"):
        ops.restrict(ROWS.to("meta"), MAP.first, columns=4, out=ROWS.clone())


def test_eager_calls_do_not_go_through_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("dispatched")

    monkeypatch.setattr(torch.ops.tokentiming, "restrict", fail)
    ops.restrict(ROWS, MAP.first, columns=4)
