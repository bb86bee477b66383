"""A target's passes over a text and a tree: by torch, with native linear layers, and natively.

The weights are random and have the shapes of Qwen2.5-Coder-1.5B. All ways take turns. The floor is
the time to read the weights at the bandwidth of a large copy in the same run.

    python bench/python/target_passes.py
"""

from __future__ import annotations

import time
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from passes import SHAPES, weight_bytes
from timing import Seconds, copy_bandwidth, summary
from tokentiming.runners import ExactNativeRunner, ModelRunner, TorchRunner, native_linear
from tokentiming.tokens.tree import TEXT, Tree

console = Console(width=100)

_SPREAD = 0.05
"""Largest difference of logits, in their standard deviations, that the order of sums explains."""


def check(runners: dict[str, ModelRunner], text: list[int], tree: Tree) -> None:
    """Raise AssertionError unless all runners give the same logits up to rounding."""
    expected = None
    for runner in runners.values():
        logits = runner.read([text], [tree])[0].float()
        expected = logits if expected is None else expected
        assert (logits - expected).square().mean().sqrt() <= _SPREAD * expected.std()


def measure(
    runners: dict[str, ModelRunner], text: list[int], trees: list[Tree], repeats: int
) -> list[dict[str, Seconds]]:
    """For each tree the seconds of each runner; each pass also reads the text's last token."""
    samples: list[dict[str, list[float]]] = [{name: [] for name in runners} for _ in trees]
    for _ in range(repeats):
        for tree, of_tree in zip(trees, samples, strict=True):
            for name, runner in runners.items():
                start = time.perf_counter()
                runner.read([text], [tree])
                of_tree[name].append(time.perf_counter() - start)
    return [{name: summary(times) for name, times in of_tree.items()} for of_tree in samples]


def main(
    rows: Annotated[str, typer.Option(help="Numbers of rows, comma-separated.")] = "1,4,8,16,32",
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the text.")] = 200,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each way.")] = 8,
) -> None:
    model = SHAPES["target 1.5B"].model("cpu")
    if not ExactNativeRunner.runs(model):
        raise SystemExit("target_passes.py: torch is as fast as the native core on this processor")
    linear = native_linear(model.get_input_embeddings().weight)
    runners: dict[str, ModelRunner] = {
        "torch": TorchRunner(model),
        "native layers": TorchRunner(model, context=linear),
        "native core": ExactNativeRunner(model),
    }
    ids = torch.randint(10_000, (prompt + 64,)).tolist()
    text, after = ids[:prompt], ids[prompt:]
    counts = [int(count) for count in rows.split(",")]
    trees = [Tree(after[: n - 1], [i - 3 if i > 2 else TEXT for i in range(n - 1)]) for n in counts]
    check(runners, text, trees[-1])
    bandwidth = copy_bandwidth("cpu")
    console.print(
        f"{torch.get_num_threads()} threads, floor {weight_bytes(model) / bandwidth * 1e3:.0f} ms "
        f"at {bandwidth / 1e9:.0f} GB/s"
    )
    table = Table("rows", *(f"{name}, ms" for name in runners), title="medians and quartiles")
    for count, found in zip(counts, measure(runners, text, trees, repeats), strict=True):
        table.add_row(str(count), *map(str, found.values()))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
