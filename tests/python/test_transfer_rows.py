"""``ops.transfer`` and ``ops.restrict`` take the draft's rows in any precision, and as logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.support.tables import exact_map, map_of, table_of
from tokentiming import ops

DRAFT = [b"a", b"b", b"ab", b"c"]
TARGET = [b"a", b"b", b"c"]
EXPANSIONS = [[0], [1], [0, 1], []]
HALVES = [torch.float16, torch.bfloat16]
FLOATS = [*HALVES, torch.float32, torch.float64]

ARGUMENTS: dict[str, Any] = {
    "draft_ids": torch.tensor([2, 0]),
    "target_ids": torch.tensor([0, 1, 0]),
    "target_spans": torch.tensor([[0, 1], [0, 1], [1, 2]], dtype=torch.int32),
    "draft_table": table_of(DRAFT),
    "target_table": table_of(TARGET),
    "vocabulary_map": map_of(EXPANSIONS),
}
EXACT = torch.tensor([0, 1, -1, 2], dtype=torch.int32)
SHARED = exact_map(EXACT)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    rows = torch.tensor([[0.25, 0.125, 0.5, 0.125], [0.5, 0.25, 0.125, 0.125]]).to(dtype)
    found = ops.transfer(rows, **ARGUMENTS)
    assert found.probs.dtype == torch.float32
    expected = ops.transfer(rows.float(), **ARGUMENTS)
    assert torch.equal(found.probs, expected.probs)
    assert torch.equal(found.cases, expected.cases)
    restricted = ops.restrict(rows, SHARED, columns=3)
    assert torch.equal(restricted, ops.restrict(rows.float(), SHARED, columns=3))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_logits_are_the_softmax(dtype: torch.dtype, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(2, 7, generator=generator).mul(2).to(dtype)
    logits = wide[:, 1:5]  # rows apart from each other
    logits[0, 3] = -math.inf
    probs = torch.softmax(logits.double() / temperature, 1)
    close = {"rtol": 1e-5, "atol": 1e-7, "check_dtype": False}
    found = ops.transfer(draft_logits=logits, temperature=temperature, **ARGUMENTS)
    assert found.probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = ops.transfer(probs, **ARGUMENTS)
    torch.testing.assert_close(found.probs, expected.probs, **close)
    assert torch.equal(found.cases, expected.cases)
    restricted = ops.restrict(None, SHARED, columns=3, draft_logits=logits, temperature=temperature)
    torch.testing.assert_close(restricted, ops.restrict(probs, SHARED, columns=3), **close)


@pytest.mark.parametrize("dtype", FLOATS)
def test_columns_beyond_the_map_are_not_read(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    padded = torch.cat([logits, torch.full((2, 3), math.nan, dtype=dtype)], 1)
    expected = ops.transfer(draft_logits=logits, **ARGUMENTS)
    assert torch.equal(ops.transfer(draft_logits=padded, **ARGUMENTS).probs, expected.probs)
    restricted = [
        ops.restrict(None, SHARED, columns=3, draft_logits=one) for one in (logits, padded)
    ]
    assert torch.equal(*restricted)


def test_logits_into_out() -> None:
    logits = torch.zeros(2, 4)
    out = ops.Transfer(torch.empty(3, 3), torch.empty(3, dtype=torch.int8))
    assert ops.transfer(draft_logits=logits, **ARGUMENTS, out=out) is out
    assert out.probs[0].tolist() == [0.5, 0.25, 0.0]
    with pytest.raises(ValueError, match=r"^restrict: out shares memory with draft_logits"):
        ops.restrict(None, SHARED, columns=4, draft_logits=logits, out=logits)


ROWS = torch.full((2, 4), 0.25)
NAN = ROWS.clone()
NAN[1, 2] = math.nan


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, "give one of draft_probs and draft_logits"),
        ({"draft_probs": ROWS, "draft_logits": ROWS}, TypeError, "give one of draft_probs and"),
        ({"draft_logits": NAN}, ValueError, r"draft_logits\[1\] holds NaN or \+inf"),
        ({"draft_logits": ROWS - math.inf}, ValueError, r"draft_logits\[0\] has no finite logit"),
        ({"draft_logits": ROWS.long()}, TypeError, "draft_logits must be float16, bfloat16, "),
        ({"draft_probs": ROWS, "temperature": 0.5}, ValueError, "temperature applies to draft_lo"),
        ({"draft_logits": ROWS, "temperature": 0.0}, ValueError, "temperature is 0.0+; it must"),
        ({"draft_logits": ROWS, "temperature": "1"}, TypeError, "temperature must be a number"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^transfer: {message}"):
        ops.transfer(**ARGUMENTS, **options)
    options = {"draft_probs": None} | options
    with pytest.raises(error, match=f"^restrict: {message}"):
        ops.restrict(vocabulary_map=SHARED, columns=3, **options)
