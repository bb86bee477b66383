"""All bf16 linear layers of a target's pass, by torch and by the native core.

The weights are random and have the shapes of a model. Both ways take turns. The floor is the time
to read the weights at the bandwidth of a large copy in the same run.

    python bench/python/linear_layers.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from timing import Seconds, copy_bandwidth, summary
from tokentiming import _native

console = Console(width=100)

Linear = Callable[[Tensor, Tensor], Tensor]

QWEN2_5_CODER_1_5B = [
    *[(1536, 1536), (256, 1536), (256, 1536), (1536, 1536)] * 28,
    *[(8960, 1536), (8960, 1536), (1536, 8960)] * 28,
    (151936, 1536),
]
"""Outputs and inputs of each layer."""


def native(x: Tensor, weight: Tensor) -> Tensor:
    out = torch.empty(x.shape[0], weight.shape[0], dtype=torch.bfloat16)
    _native.linear(x, weight, None, out)
    return out


def check(ways: dict[str, Linear], inputs: dict[int, Tensor], weight: Tensor) -> None:
    """Raise AssertionError unless each way agrees with float32 up to the rounding of bfloat16."""
    x = inputs[weight.shape[1]]
    expected = functional.linear(x.float(), weight.float())
    for way in ways.values():
        torch.testing.assert_close(way(x, weight).float(), expected, rtol=2**-7, atol=2**-7)


def seconds(way: Linear, inputs: dict[int, Tensor], weights: list[Tensor]) -> float:
    start = time.perf_counter()
    for weight in weights:
        way(inputs[weight.shape[1]], weight)
    return time.perf_counter() - start


def measure(
    ways: dict[str, Linear], weights: list[Tensor], rows: int, repeats: int
) -> dict[str, Seconds]:
    sizes = {weight.shape[1] for weight in weights}
    inputs = {size: torch.randn(rows, size).bfloat16() for size in sizes}
    check(ways, inputs, weights[0])
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            samples[name].append(seconds(way, inputs, weights))
    return {name: summary(values) for name, values in samples.items()}


def main(
    rows: Annotated[str, typer.Option(help="Numbers of rows, comma-separated.")] = "1,4,8,16,32,64",
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each way.")] = 6,
) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(shape).bfloat16() * 0.02 for shape in QWEN2_5_CODER_1_5B]
    ways: dict[str, Linear] = {"torch": functional.linear, "native core": native}
    read = sum(weight.nbytes for weight in weights)
    bandwidth = copy_bandwidth("cpu")
    console.print(
        f"{torch.get_num_threads()} threads, {_native.variants()[0]}, "
        f"floor {read / bandwidth * 1e3:.0f} ms at {bandwidth / 1e9:.0f} GB/s"
    )
    table = Table("rows", *(f"{name}, ms" for name in ways), title="medians and quartiles")
    for count in map(int, rows.split(",")):
        found = measure(ways, weights, count, repeats)
        table.add_row(str(count), *map(str, found.values()))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
