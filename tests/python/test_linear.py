"""``tokentiming._native.linear`` against products in float64."""

from __future__ import annotations

import math

import pytest
import torch

from tokentiming import _native


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    out = torch.full((x.shape[0], weight.shape[0]), math.nan).bfloat16()
    assert _native.linear(x, weight, bias, out) is None
    return out


def matrices(rows: int, inner: int, outputs: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows + 31 * inner + 17 * outputs)
    return tuple(
        torch.randn(*shape, generator=generator).bfloat16()
        for shape in ((rows, inner), (outputs, inner), (outputs,))
    )


# Sizes around a tile (6 or 16 rows, 2 to 4 or 16 outputs), a block (48 outputs), a vector (16 or 32
# entries) and the rows that use weights together (16 or 64).
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 6, 7, 13, 16, 17, 33, 70])
@pytest.mark.parametrize(
    ("inner", "outputs"), [(1, 1), (15, 3), (16, 48), (40, 50), (257, 97), (3000, 144), (64, 0)]
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_the_product_up_to_rounding(
    rows: int, inner: int, outputs: int, with_bias: bool
) -> None:
    x, weight, bias = matrices(rows, inner, outputs)
    result = linear(x, weight, bias if with_bias else None)
    assert result.dtype == torch.bfloat16
    assert result.shape == (rows, outputs)
    x, weight, bias = x.double(), weight.double(), bias.double() * with_bias
    exact = x @ weight.T + bias
    # One rounding to 8 bits, and one rounding to float32 for each product and sum.
    magnitude = x.abs() @ weight.abs().T + bias.abs()
    bound = exact.abs() * 2**-8 + magnitude * (inner + 2) * 2**-23
    assert ((result.double() - exact).abs() <= bound).all()


def test_without_input_features_the_result_is_the_bias() -> None:
    x, weight, bias = torch.empty(3, 0), torch.empty(5, 0), torch.arange(5.0)
    result = linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    assert torch.equal(result.float(), bias.expand(3, 5))


def test_the_last_rounding_is_to_nearest_even() -> None:
    # 1 + 2^-8 lies halfway between two bfloat16 numbers, of which the lower one is even.
    one = torch.ones(1, 1).bfloat16()
    bias = torch.tensor([2.0**-8, 3 * 2.0**-8, 2.0**-8 + 2.0**-15]).bfloat16()
    result = linear(one, torch.ones(3, 1).bfloat16(), bias).float()
    assert result.tolist() == [[1.0, 1 + 2.0**-6, 1 + 2.0**-7]]


def test_a_row_depends_on_its_own_input_only() -> None:
    x, weight, bias = matrices(70, 1000, 131)
    whole = linear(x, weight, bias)
    for rows in range(1, 70):
        assert torch.equal(linear(x[:rows], weight, bias), whole[:rows])
        assert torch.equal(linear(x[rows:], weight, bias), whole[rows:])


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    x, weight, bias = matrices(8, 300, 1001)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(linear(x, weight, bias))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("place", [0, 1, 17, 39])
def test_nan_and_infinity_pass_through(place: int) -> None:
    x, weight, _ = matrices(3, 40, 50)
    x[1, place] = math.nan
    x[2, place] = math.inf
    result = linear(x, weight)
    assert result[0].isfinite().all()
    assert result[1].isnan().all()
    assert torch.equal(result[2], weight[:, place].sign() * math.inf)


def test_sums_beyond_bfloat16_are_infinite() -> None:
    big = torch.full((1, 20), 1e38).bfloat16()
    assert linear(big, torch.ones(1, 20).bfloat16()).item() == math.inf


X, WEIGHT, BIAS = matrices(2, 4, 3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input": X.float()}, TypeError, "input must be bfloat16, got float32"),
        ({"weight": WEIGHT.half()}, TypeError, "weight must be bfloat16, got float16"),
        ({"bias": BIAS.float()}, TypeError, "bias must be bfloat16"),
        ({"input": X[0]}, ValueError, r"input must have shape \[R, K\], got 1 dim"),
        ({"input": X.T.contiguous().T}, ValueError, "input must be contiguous"),
        ({"weight": WEIGHT[:, :2]}, ValueError, "weight must be contiguous"),
        ({"weight": WEIGHT[:, :2].contiguous()}, ValueError, "weight must have K = 4, got 2"),
        ({"bias": BIAS[:2]}, ValueError, "bias must have N = 3, got 2"),
        ({"weight": WEIGHT.clone().requires_grad_()}, ValueError, "weight requires grad"),
        ({"out": torch.empty(3, 3).bfloat16()}, ValueError, "out must have R = 2, got 3"),
        ({"out": torch.empty(2, 2).bfloat16()}, ValueError, "out must have N = 3, got 2"),
        ({"out": torch.empty(2, 3)}, TypeError, "out must be bfloat16"),
        ({"out": WEIGHT.view(-1)[:6].view(2, 3)}, ValueError, "out shares memory with weight"),
    ],
)
def test_refusals(changes: dict[str, object], error: type[Exception], message: str) -> None:
    out = torch.empty(2, 3).bfloat16()
    arguments = {"input": X, "weight": WEIGHT, "bias": BIAS, "out": out} | changes
    with pytest.raises(error, match=f"^linear: {message}"):
        _native.linear(*arguments.values())
