"""``ops.candidates``: its ranking and shares against a slow twin, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import references
from tokentiming import ops

SHARES = {"rtol": 1e-4, "atol": 1e-30}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def random_keys(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, (n,), generator=generator)


def states_of(n: int) -> torch.Tensor:
    """``n`` distinct states: one sequence, one byte further each time."""
    states = torch.zeros(n, 3, dtype=torch.int64)
    states[:, 1] = torch.arange(n)
    return states


def assert_as_reference(
    logits: torch.Tensor, keys: torch.Tensor, seed: int, states: torch.Tensor, count: int
) -> None:
    found = ops.candidates(logits, keys, seed=seed, states=states, count=count)
    rows = logits.double().tolist()
    ids, shares = references.candidates(rows, keys.tolist(), seed, states.tolist(), count)
    assert found.ids.tolist() == ids
    torch.testing.assert_close(found.shares.double(), torch.tensor(shares).double(), **SHARES)
    drawn = ops.sample(logits, keys, seed=seed, states=states)
    assert torch.equal(found.ids[:, 0], drawn)


# Sizes around a vector (8, 16), a block (1024) and a chunk (8192) of the core.
@pytest.mark.parametrize("columns", [1, 2, 7, 8, 9, 16, 17, 33, 1023, 1025, 8191, 8200])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_reference(columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(columns)
    rows = 20 if columns < 1000 else 2
    logits = (torch.randn(rows, columns, generator=generator) * 3).to(dtype)
    logits[:, 1:][torch.rand(rows, columns - 1, generator=generator) < 0.2] = -math.inf
    states = torch.stack(
        [
            torch.randint(0, 2**62, (rows,), generator=generator),
            torch.randint(0, 2**32, (rows,), generator=generator),
            torch.randint(0, 2**32, (rows,), generator=generator),
        ],
        dim=1,
    )
    for count in (1, 4, 16):
        assert_as_reference(logits, random_keys(columns), 2**64 - columns, states, count)


@given(
    # Few distinct keys and logits, so that scores tie, and rows with few finite logits.
    row=st.lists(st.sampled_from([-math.inf, -2.5, 0.0, 0.5, 30.0]), min_size=1, max_size=70),
    distinct=st.integers(1, 70),
    count=st.integers(1, 16),
    seed=st.integers(0, 2**64 - 1),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=300, deadline=None)
def test_ties_and_rows_of_few_tokens(
    row: list[float], distinct: int, count: int, seed: int, dtype: torch.dtype
) -> None:
    row[0] = 0.0
    keys = random_keys(distinct).repeat(70)[: len(row)]
    assert_as_reference(torch.tensor([row], dtype=dtype), keys, seed, states_of(1), count)


def test_equal_keys_and_logits_rank_by_id_across_chunks() -> None:
    keys = random_keys(3).repeat(6_000)
    found = ops.candidates(torch.zeros(1, 18_000), keys, seed=0, states=states_of(1), count=16)
    first = int(found.ids[0, 0])
    assert found.ids.tolist() == [[first + 3 * k for k in range(16)]]


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0, 12.0, 100.0])
def test_shares_of_a_large_vocabulary(spread: float) -> None:
    columns, count = 151_936, 16
    generator = torch.Generator().manual_seed(int(spread))
    logits = spread * torch.randn(2, columns, generator=generator)
    keys, states = random_keys(columns), states_of(2)
    scores = logits.double() - ops.log_noise(keys, seed=3, states=states)
    found = ops.candidates(logits, keys, seed=3, states=states, count=count)
    expected = scores.topk(count)
    assert torch.equal(found.ids, expected.indices)
    shares = scores.softmax(-1).gather(1, found.ids)
    torch.testing.assert_close(found.shares.double(), shares, **SHARES)


# From 1e5 on, the rounding of a logit plus a bound exceeds the margin of the bound.
@pytest.mark.parametrize("magnitude", [1e5, 1e6, 1e7, 1e30, 3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_large_logits(magnitude: float, dtype: torch.dtype) -> None:
    rows, columns = 8, 1000
    generator = torch.Generator().manual_seed(1)
    spread = torch.tensor([3.0, 3.0, 1e-7 * magnitude, 1e-7 * magnitude]).repeat(2)[:, None]
    sign = torch.tensor([1.0, -1.0]).repeat(4)[:, None]
    noise = torch.randn(rows, columns, generator=generator).double()
    logits = (sign * magnitude + spread * noise).to(dtype)
    assert_as_reference(logits, random_keys(columns), 2, states_of(rows), 4)


def test_minus_infinity_and_padding_are_never_candidates() -> None:
    logits = torch.full((500, 300), -math.inf)
    logits[:, 270] = torch.finfo(torch.float32).min
    logits[:, 280:] = math.nan  # padding is not even read
    keys, states = random_keys(280), states_of(500)
    found = ops.candidates(logits, keys, seed=0, states=states, count=2)
    assert found.ids.tolist() == [[270, -1]] * 500
    torch.testing.assert_close(found.shares, torch.tensor([[1.0, 0.0]]).expand(500, -1))
    assert float(found.shares.max()) <= 1


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    logits = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0))
    keys, states = random_keys(20_000), states_of(3)
    longest = ops.candidates(logits, keys, seed=1, states=states, count=16)
    for count in range(1, 16):
        found = ops.candidates(logits, keys, seed=1, states=states, count=count)
        assert torch.equal(found.ids, longest.ids[:, :count])
        assert torch.equal(found.shares, longest.shares[:, :count])


def test_threads_do_not_matter() -> None:
    logits = torch.randn(5, 50_000, generator=torch.Generator().manual_seed(0))
    keys, states = random_keys(50_000), states_of(5)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            found = ops.candidates(logits, keys, seed=1, states=states, count=8)
            results.append((found.ids.tolist(), found.shares.tolist()))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1] == results[2]


def test_strided_rows_numpy_and_out() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    keys, states = random_keys(20), states_of(3)
    options = {"seed": 1, "states": states, "count": 3}
    expected = ops.candidates(logits[::2, 5:25].contiguous(), keys, **options)
    out = ops.Candidates(torch.full((3, 3), -7), torch.zeros(3, 3))
    assert ops.candidates(logits[::2, 5:25], keys, **options, out=out) is out
    assert torch.equal(out.ids, expected.ids)
    assert torch.equal(out.shares, expected.shares)
    arrays = logits.numpy()[::2, 5:25], keys.numpy()
    found = ops.candidates(*arrays, seed=1, states=states.numpy(), count=3)
    assert torch.equal(found.ids, expected.ids)
    none = ops.candidates(logits[:0], random_keys(40), seed=1, states=states_of(0), count=3)
    assert (none.ids.shape, none.shares.shape) == ((0, 3), (0, 3))


LOGITS = torch.zeros(3, 4)
KEYS = random_keys(4)
STATES = states_of(3)
OUT = ops.Candidates(torch.full((3, 2), -7), torch.full((3, 2), -7.0))


def with_entry(value: float) -> torch.Tensor:
    logits = LOGITS.clone()
    logits[1, 2] = value
    return logits


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"logits": with_entry(math.nan)}, ValueError, r"logits\[1\] holds NaN or \+inf"),
        ({"logits": with_entry(math.inf).half()}, ValueError, r"logits\[1\] holds NaN or \+inf"),
        ({"logits": with_entry(math.nan).bfloat16()}, ValueError, r"logits\[1\] holds NaN"),
        ({"logits": with_entry(math.inf).double()}, ValueError, r"logits\[1\] holds NaN"),
        (
            {"logits": LOGITS - torch.tensor([[0.0], [0.0], [math.inf]])},
            ValueError,
            r"logits\[2\] has no finite entry",
        ),
        ({"logits": LOGITS * math.nan}, ValueError, r"logits\[0\] holds NaN or \+inf"),
        (
            {"logits": with_entry(math.nan) - torch.tensor([[0.0], [math.inf], [0.0]])},
            ValueError,
            r"logits\[1\] holds NaN or \+inf",
        ),
        ({"logits": LOGITS.long()}, TypeError, "logits must be float16, bfloat16, .*got int64"),
        ({"logits": LOGITS[0]}, ValueError, r"logits must have shape \[R, V\], got 1 dim"),
        ({"logits": torch.zeros(4, 3).T}, ValueError, "logits must be contiguous along the voc"),
        ({"keys": random_keys(5)}, ValueError, "keys has 5 entries, logits only 4 columns"),
        ({"keys": KEYS[:0]}, ValueError, r"logits\[0\] has no finite entry"),
        ({"keys": KEYS.int()}, TypeError, "keys must be int64, got int32"),
        ({"states": STATES[:2]}, ValueError, "states has 2 rows, logits has 3"),
        ({"states": STATES - torch.tensor([1, 0, 0])}, ValueError, r"states\[0\] is \(-1, 0, 0\)"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"count": 0}, ValueError, r"count is 0; it must be in \[1, 16\]"),
        ({"count": 17}, ValueError, r"count is 17; it must be in \[1, 16\]"),
        ({"count": 0, "out": None}, ValueError, r"count is 0; it must be in \[1, 16\]"),
        ({"count": 2.0}, TypeError, "count must be an integer"),
        ({"count": 3}, ValueError, "out.ids has 2 columns, count is 3"),
        ({"out": OUT._replace(ids=OUT.ids[:2])}, ValueError, r"out.ids has shape \[2, 2\]"),
        ({"out": OUT._replace(shares=torch.ones(3, 3))}, ValueError, r"out.shares has shape"),
        ({"out": OUT._replace(ids=OUT.ids.int())}, TypeError, "out.ids must be int64, got int32"),
        ({"out": OUT.ids}, TypeError, "out has no ids, got Tensor; give an ops.Candidates"),
    ],
)
def test_refusals(changes: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"logits": LOGITS, "keys": KEYS, "seed": 0, "states": STATES, "count": 2, "out": OUT}
    with pytest.raises(error, match=f"^candidates: {message}"):
        ops.candidates(**good | changes)
    assert OUT.ids.tolist() == [[-7] * 2] * 3
    assert OUT.shares.tolist() == [[-7.0] * 2] * 3
