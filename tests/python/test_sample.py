"""``ops.sample``: its noise, its distribution, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from tests.support import references
from tokentiming import ops


def random_keys(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, (n,), generator=generator)


def states_of(n: int) -> torch.Tensor:
    """``n`` distinct states: one sequence, one byte further each time."""
    states = torch.zeros(n, 3, dtype=torch.int64)
    states[:, 1] = torch.arange(n)
    return states


# The known answers of the Random123 distribution for philox4x32-10.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_reference_philox_known_answers(counter: list[int], key: list[int], expected: str) -> None:
    assert " ".join(f"{word:08x}" for word in references.philox(counter, key)) == expected


# Sizes around a vector (8, 16), a block (256) and a chunk (8192) of the core.
@pytest.mark.parametrize("columns", [1, 2, 7, 8, 9, 16, 17, 255, 257, 600, 8191, 8200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_equals_the_reference(columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(columns)
    rows = 40 if columns < 1000 else 2
    logits = (torch.randn(rows, columns, generator=generator) * 3).to(dtype)
    logits[:, 1:][torch.rand(rows, columns - 1, generator=generator) < 0.2] = -math.inf
    keys = random_keys(columns)
    states = torch.stack(
        [
            torch.randint(0, 2**62, (rows,), generator=generator),
            torch.randint(0, 2**32, (rows,), generator=generator),
            torch.randint(0, 2**32, (rows,), generator=generator),
        ],
        dim=1,
    )
    seed = 2**64 - columns
    expected = references.sample(logits.double().tolist(), keys.tolist(), seed, states.tolist())
    assert ops.sample(logits, keys, seed=seed, states=states).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_logit_is_read_right(dtype: torch.dtype) -> None:
    values = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype)
    finite = values[values.isfinite()]
    # Compared with its own value in double, the logit wins or loses by the noise only.
    logits = torch.stack([finite, finite.roll(1)], dim=1)
    keys, states = random_keys(2), states_of(len(finite))
    narrow = ops.sample(logits, keys, seed=3, states=states)
    assert torch.equal(narrow, ops.sample(logits.double(), keys, seed=3, states=states))


def test_distribution_is_softmax() -> None:
    draws = 100_000
    p = torch.tensor([0.4, 0.0, 0.25, 0.2, 0.1, 0.04, 0.01], dtype=torch.float64)
    ids = ops.sample(p.log().expand(draws, -1), random_keys(7), seed=11, states=states_of(draws))
    counts = torch.bincount(ids, minlength=7)
    assert counts[1] == 0
    keep = p > 0
    assert stats.chisquare(counts[keep], p[keep] * draws).pvalue > 1e-3


def dependence(a: torch.Tensor, b: torch.Tensor) -> float:
    """The p-value of a chi-square test that two columns of draws are independent."""
    table = np.zeros((4, 4))
    np.add.at(table, (a.numpy(), b.numpy()), 1)
    return float(stats.chi2_contingency(table + 1e-9).pvalue)


def test_draws_at_different_states_are_independent() -> None:
    draws = 50_000
    logits, keys, base = torch.zeros(draws, 4), random_keys(4), states_of(draws)
    first = ops.sample(logits, keys, seed=1, states=base)
    for change, seed in [([1, 0, 0], 1), ([0, draws, 0], 1), ([0, 0, 1], 1), ([0, 0, 0], 2)]:
        other = ops.sample(logits, keys, seed=seed, states=base + torch.tensor(change))
        assert dependence(first, other) > 1e-3
    # This test detects noise that one state in twenty shares.
    reused = base + torch.tensor([0, draws, 0])
    reused[::20] = base[::20]
    assert dependence(first, ops.sample(logits, keys, seed=1, states=reused)) < 1e-6


def test_noise_belongs_to_the_key_not_to_the_id() -> None:
    rows, columns = 200, 50
    logits = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    keys, states = random_keys(columns), states_of(rows)
    order = torch.randperm(columns, generator=torch.Generator().manual_seed(1))
    here = ops.sample(logits, keys, seed=5, states=states)
    there = ops.sample(logits[:, order].contiguous(), keys[order], seed=5, states=states)
    assert torch.equal(order[there], here)


def test_minus_infinity_and_padding_never_win() -> None:
    rows = 2_000
    logits = torch.full((rows, 300), -math.inf)
    logits[:, 270] = torch.finfo(torch.float32).min
    logits[:, 280:] = math.nan  # padding is not even read
    ids = ops.sample(logits, random_keys(280), seed=0, states=states_of(rows))
    assert set(ids.tolist()) == {270}


def test_equal_keys_and_logits_go_to_the_lowest_id() -> None:
    keys = random_keys(3).repeat(6_000)
    ids = ops.sample(torch.zeros(300, 18_000), keys, seed=0, states=states_of(300))
    assert set(ids.tolist()) == {0, 1, 2}


def test_far_apart_logits_and_rising_logits() -> None:
    keys = random_keys(1000)
    rising = torch.arange(1000.0)[None] * torch.tensor([[0.01], [1.0], [1e30]])
    expected = references.sample(rising.double().tolist(), keys.tolist(), 9, states_of(3).tolist())
    assert ops.sample(rising, keys, seed=9, states=states_of(3)).tolist() == expected


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
    keys, states = random_keys(columns), states_of(rows)
    expected = references.sample(logits.double().tolist(), keys.tolist(), 2, states.tolist())
    assert ops.sample(logits, keys, seed=2, states=states).tolist() == expected


def test_threads_do_not_matter() -> None:
    logits = torch.randn(5, 50_000, generator=torch.Generator().manual_seed(0))
    keys, states = random_keys(50_000), states_of(5)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(ops.sample(logits, keys, seed=1, states=states).tolist())
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1] == results[2]


def test_strided_rows_numpy_and_out() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    keys, states = random_keys(20), states_of(3)
    expected = ops.sample(logits[::2, 5:25].contiguous(), keys, seed=1, states=states)
    out = torch.full((3,), -1)
    assert ops.sample(logits[::2, 5:25], keys, seed=1, states=states, out=out) is out
    assert torch.equal(out, expected)
    arrays = logits.numpy()[::2, 5:25], keys.numpy()
    assert torch.equal(ops.sample(*arrays, seed=1, states=states.numpy()), expected)
    expanded = ops.sample(logits[:1].expand(3, -1), random_keys(40), seed=1, states=states)
    assert expanded.shape == (3,)
    assert ops.sample(logits[:0], random_keys(40), seed=1, states=states_of(0)).shape == (0,)


LOGITS = torch.zeros(3, 4)
KEYS = random_keys(4)
STATES = states_of(3)


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
        ({"logits": with_entry(math.nan).double()}, ValueError, r"logits\[1\] holds NaN"),
        (
            {"logits": LOGITS - torch.tensor([[0.0], [0.0], [math.inf]])},
            ValueError,
            r"logits\[2\] has no finite entry",
        ),
        ({"logits": LOGITS.long()}, TypeError, "logits must be float16, bfloat16, .*got int64"),
        ({"logits": LOGITS[0]}, ValueError, r"logits must have shape \[R, V\], got 1 dim"),
        ({"logits": torch.zeros(4, 3).T}, ValueError, "logits must be contiguous along the voc"),
        ({"logits": LOGITS.clone().requires_grad_()}, ValueError, "logits requires grad"),
        (
            {"logits": torch.zeros(3, 4, dtype=torch.complex64).conj().imag},
            ValueError,
            "logits (has a pending negation|must be contiguous)",
        ),
        ({"logits": torch._neg_view(LOGITS)}, ValueError, "logits has a pending negation"),
        ({"keys": random_keys(5)}, ValueError, "keys has 5 entries, logits only 4 columns"),
        ({"keys": KEYS[:0]}, ValueError, r"logits\[0\] has no finite entry"),
        ({"keys": KEYS.int()}, TypeError, "keys must be int64, got int32"),
        ({"states": STATES[:2]}, ValueError, "states has 2 rows, logits has 3"),
        ({"states": STATES[:, :2].contiguous()}, ValueError, "states must have 3 columns"),
        ({"states": STATES.int()}, TypeError, "states must be int64"),
        ({"states": STATES - torch.tensor([1, 0, 0])}, ValueError, r"states\[0\] is \(-1, 0, 0\)"),
        ({"states": STATES + torch.tensor([0, 2**32 - 2, 0])}, ValueError, r"states\[2\] is"),
        ({"states": STATES + torch.tensor([0, 0, 2**32])}, ValueError, r"states\[0\] is"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": 2**64}, ValueError, "seed is"),
        ({"out": torch.empty(2, dtype=torch.int64)}, ValueError, "out has 2 entries"),
        ({"out": torch.empty(3)}, TypeError, "out must be int64, got float32"),
        ({"out": torch.empty(6, dtype=torch.int64)[::2]}, ValueError, "out must be contiguous"),
    ],
)
def test_refusals(changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"logits": LOGITS, "keys": KEYS, "seed": 0, "states": STATES} | changes
    with pytest.raises(error, match=f"^sample: {message}"):
        ops.sample(**arguments)


def test_nothing_is_written_on_error() -> None:
    out = torch.full((3,), -7)
    with pytest.raises(ValueError, match=r"^sample: logits"):
        ops.sample(with_entry(math.nan), KEYS, seed=0, states=STATES, out=out)
    assert out.tolist() == [-7] * 3
