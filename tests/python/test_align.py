"""``ops.align`` against its naive twin, and what it refuses."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import references
from tests.support.tables import offsets, table_of
from tokentiming import ops


def align_pair(draft: list[bytes], target: list[bytes], band: int = 8) -> ops.Alignment:
    return ops.align(
        draft_ids=torch.arange(len(draft)),
        target_ids=torch.arange(len(target)),
        draft_table=table_of(draft),
        target_table=table_of(target),
        band=band,
    )


# Few letters, so that distances tie; sizes around a machine word of 64 and 0 for special tokens.
def random_vocabulary(rng: random.Random, size: int) -> list[bytes]:
    lengths = [rng.choice([0, 1, 1, 2, 2, 3, 3, 4, 5, 7]) for _ in range(size)]
    lengths[:6] = [0, 63, 64, 65, 70, 1]
    return [bytes(rng.choices(b"ab\xff", k=n)) for n in lengths]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(("band", "longest"), [(0, 6), (1, 8), (3, 12), (100, 7)])
def test_equals_the_reference(dtype: torch.dtype, band: int, longest: int) -> None:
    rng = random.Random(longest)
    draft_tokens, target_tokens = random_vocabulary(rng, 300), random_vocabulary(rng, 300)
    # Long tokens are slow in the reference, so they are drawn rarely.
    weights = [0.3 if len(t) > 60 else 1 for t in draft_tokens]
    drafts, targets = [], []
    for _ in range(1300):
        k = rng.randint(1, longest)
        # Half the pairs are of nearly equal length, where a narrow band binds.
        m = max(1, k + rng.randint(-1, 1)) if rng.random() < 0.5 else rng.randint(1, longest)
        drafts.append(rng.choices(range(300), weights, k=k))
        targets.append(rng.choices(range(300), weights, k=m))
    result = ops.align(
        draft_ids=torch.tensor(list(itertools.chain(*drafts)), dtype=dtype),
        target_ids=torch.tensor(list(itertools.chain(*targets)), dtype=dtype),
        draft_table=table_of(draft_tokens),
        target_table=table_of(target_tokens),
        band=band,
        draft_offsets=offsets(drafts),
        target_offsets=offsets(targets),
    )
    assert result.target_spans.dtype == torch.int32
    assert result.cost.dtype == torch.int64
    spans = result.target_spans.tolist()
    narrowed = 0
    for b, (draft, target) in enumerate(zip(drafts, targets, strict=True)):
        sides = [draft_tokens[t] for t in draft], [target_tokens[t] for t in target]
        expected, cost = references.align(*sides, band)
        got = [tuple(s) for s in spans[: len(target)]]
        del spans[: len(target)]
        assert got == expected
        assert result.cost[b] == cost
        assert got[0][0] == 0
        assert got[-1][1] == len(draft)
        assert all(lo < hi for lo, hi in got)
        assert all(
            after[0] in (before[1] - 1, before[1]) for before, after in itertools.pairwise(got)
        )
        if b < 200:
            narrowed += cost != references.align(*sides, 100)[1]
    # A narrow band must have changed a cost, or it is not tested.
    assert (narrowed > 0) == (band < 100)


@given(st.binary(max_size=140), st.binary(max_size=140))
def test_cost_of_one_token_each_is_levenshtein(a: bytes, b: bytes) -> None:
    result = align_pair([a], [b])
    assert result.cost.shape == ()
    assert result.cost == references.levenshtein(a, b)
    assert result.target_spans.tolist() == [[0, 1]]


def test_equal_sides_align_one_to_one() -> None:
    tokens = [b"The", b" quick", b" brown", b"", b" fox"]
    result = align_pair(tokens, tokens)
    assert result.cost == 0
    assert result.target_spans.tolist() == [[i, i + 1] for i in range(5)]


def test_many_to_many() -> None:
    assert align_pair(
        [b"un", b"believ", b"able"], [b"unbeliev", b"able"]
    ).target_spans.tolist() == [
        [0, 2],
        [2, 3],
    ]
    assert (
        align_pair([b"unbelievable"], [b"un", b"believ", b"able"]).target_spans.tolist()
        == [[0, 1]] * 3
    )


def test_ties_go_diagonal_then_draft_then_target() -> None:
    # All local costs are 1, so every shortest path ties; the diagonal is preferred from the end.
    assert align_pair([b"a"] * 3, [b"b"] * 2).target_spans.tolist() == [[0, 2], [2, 3]]
    assert align_pair([b"a"] * 2, [b"b"] * 3).target_spans.tolist() == [[0, 1], [0, 1], [1, 2]]


def test_empty_sides() -> None:
    result = align_pair([], [])
    assert result.cost == 0
    assert result.target_spans.shape == (0, 2)
    with pytest.raises(ValueError, match=r"^align: draft_ids of sequence 0 is empty"):
        align_pair([], [b"a"])
    with pytest.raises(ValueError, match=r"^align: target_ids of sequence 0 is empty"):
        align_pair([b"a"], [])
    none = torch.empty(0, dtype=torch.int64)
    table, start = table_of([b"a"]), torch.tensor([0])
    batch = ops.align(
        draft_ids=none,
        target_ids=none,
        draft_table=table,
        target_table=table,
        draft_offsets=start,
        target_offsets=start,
    )
    assert batch.cost.shape == (0,)


def test_numpy_inputs_and_out() -> None:
    table = table_of([b"a", b"bc", b"ab", b"c"])
    ids = np.array([0, 1])
    ids.flags.writeable = False
    out = ops.Alignment(torch.full((2, 2), -1, dtype=torch.int32), torch.tensor(-1))
    arrays = ops.ByteTable(table.bytes.numpy(), table.offsets.numpy())
    result = ops.align(
        draft_ids=ids,
        target_ids=np.array([2, 3]),
        draft_table=arrays,
        target_table=table,
        out=out,
    )
    assert result is out
    assert out.cost == 2
    assert out.target_spans.tolist() == [[0, 1], [1, 2]]


def test_threads_do_not_matter() -> None:
    rng = random.Random(5)
    tokens = random_vocabulary(rng, 50)
    drafts = [rng.choices(range(50), k=9) for _ in range(500)]
    flat, starts, table = (
        torch.tensor(list(itertools.chain(*drafts))),
        offsets(drafts),
        table_of(tokens),
    )
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(
                ops.align(
                    draft_ids=flat,
                    target_ids=flat.flip(0),
                    draft_table=table,
                    target_table=table,
                    draft_offsets=starts,
                    target_offsets=starts,
                )
            )
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert torch.equal(results[0].target_spans, other.target_spans)
        assert torch.equal(results[0].cost, other.cost)


TABLE = table_of([b"a", b"bc"])
IDS = torch.tensor([0, 1])
GOOD = {"draft_ids": IDS, "target_ids": IDS, "draft_table": TABLE, "target_table": TABLE}


def test_a_cost_that_shares_memory_with_the_offsets_is_refused() -> None:
    starts = torch.tensor([0, 1, 2])
    out = ops.Alignment(torch.zeros(2, 2, dtype=torch.int32), starts[1:])
    with pytest.raises(ValueError, match=r"^align: out.cost shares memory with draft_offsets"):
        ops.align(**GOOD, draft_offsets=starts, target_offsets=starts, out=out)
    assert starts.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"draft_ids": torch.tensor([0, 2])},
            ValueError,
            r"draft_ids\[1\] is 2, outside a voc.* 2 t",
        ),
        ({"target_ids": torch.tensor([-1])}, ValueError, r"target_ids\[0\] is -1"),
        ({"band": -1}, ValueError, "band is -1"),
        ({"band": 1.5}, TypeError, "band must be an integer in 64 bits, got float"),
        (
            {"draft_table": "words"},
            TypeError,
            r"draft_table must be an ops.ByteTable, got str; give an ops.ByteTable, such as voc",
        ),
        ({"draft_ids": IDS.float()}, TypeError, "draft_ids must be int32 or int64, got float32"),
        (
            {"draft_ids": IDS.to(torch.uint8)},
            TypeError,
            "draft_ids must be int32 or int64, got uint8",
        ),
        ({"target_ids": IDS.int()}, TypeError, "target_ids must be of the dtype of draft_ids"),
        ({"draft_ids": [0, 1]}, TypeError, "draft_ids must be a tensor, got list"),
        ({"draft_ids": IDS[None]}, ValueError, r"draft_ids must have shape \[K\], got 2 dim"),
        ({"draft_ids": torch.arange(4)[::2]}, ValueError, "draft_ids must be contiguous"),
        ({"target_ids": IDS.to("meta")}, ValueError, "target_ids cannot be read"),
        ({"draft_ids": IDS.float().requires_grad_()}, ValueError, "draft_ids requires grad"),
        ({"draft_offsets": torch.tensor([0, 2])}, ValueError, "target_offsets is missing"),
        (
            {"draft_offsets": torch.tensor([0, 2, 1]), "target_offsets": torch.tensor([0, 1, 2])},
            ValueError,
            r"draft_offsets must rise from 0 to the number of draft_ids \(2\)",
        ),
        (
            {"draft_offsets": torch.tensor([0, 2]), "target_offsets": torch.tensor([0, 1, 2])},
            ValueError,
            "target_offsets has 2 sequences, draft_offsets has 1",
        ),
        (
            {"draft_offsets": torch.tensor([0, 2]).int(), "target_offsets": torch.tensor([0, 2])},
            TypeError,
            "draft_offsets must be int64, got int32",
        ),
        (
            {"target_table": (TABLE.bytes, TABLE.offsets)},
            TypeError,
            "target_table must be an ops.ByteTable, got tuple",
        ),
        (
            {"out": ops.Alignment(torch.empty(3, 2, dtype=torch.int32), torch.tensor(0))},
            ValueError,
            "target_spans must have 2 entries for each of the 2 target_ids",
        ),
        (
            {"out": ops.Alignment(torch.empty(2, 2), torch.tensor(0))},
            TypeError,
            "out.target_spans must be int32, got float32",
        ),
        (
            {"out": ops.Alignment(torch.empty(2, 2, dtype=torch.int32), torch.zeros(1).long())},
            ValueError,
            r"out.cost must have shape \[\] without offsets, got 1 dimensions",
        ),
    ],
)
def test_refusals(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^align: {message}"):
        ops.align(**GOOD | changes)


def test_a_table_changed_after_it_was_made_is_refused_where_it_is_read() -> None:
    table = table_of([b"a", b"bc"])
    table.offsets[2] = 9
    with pytest.raises(ValueError, match=r"^align: draft_table.offsets of token 1 are 1..9"):
        ops.align(**GOOD | {"draft_table": table})
