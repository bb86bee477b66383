"""Tokens a second of a batch by its size: without a draft, with the default budget, with a chain.

All prompts of a size run together, greedily. The ways and sizes take turns; the fastest of the
repeats counts, since other work on a machine only slows a run down.

    python bench/python/batch_budgets.py
"""

from __future__ import annotations

import time
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

import tokentiming as tt
from prompts import chosen, given, sampling_at
from tokentiming.cli import demo_models as models


def main(
    target: Annotated[str, typer.Option(help="Target model.")] = "qwen2.5-coder-1.5b",
    draft: Annotated[str, typer.Option(help="Draft model.")] = "smollm2-135m",
    sizes: Annotated[str, typer.Option(help="Texts in a batch, comma-separated.")] = "1,2,4,8",
    depth: Annotated[int, typer.Option(help="Tokens of the chain.")] = 5,
    length: Annotated[int, typer.Option(help="New tokens.")] = 32,
    repeats: Annotated[int, typer.Option(help="Runs of each; the fastest counts.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
) -> None:
    """Print tokens a second, and tokens proposed to each text."""
    torch.set_num_threads(threads)
    parts = models.load(target, dtype=torch.bfloat16)
    drafter = tt.ModelDrafter(*models.load(draft, dtype=torch.bfloat16))
    decoders = {
        "no draft": tt.SpeculativeDecoder(*parts),
        "default": tt.SpeculativeDecoder(*parts, drafter),
        f"chain of {depth}": tt.SpeculativeDecoder(*parts, drafter, draft_length=depth),
    }
    texts = [given(prompt["prompt"], parts[1]) for prompt in chosen("")]
    counts = [int(size) for size in sizes.split(",")]
    best: dict[tuple[str, int], tuple[float, float]] = {}
    for _ in range(repeats):
        for size in counts:
            for name, decoder in decoders.items():
                start = time.perf_counter()
                stats = decoder.generate(
                    texts[:size], max_new_tokens=length, batch_size=size, **sampling_at(0)
                ).stats
                rate = sum(one.tokens for one in stats) / (time.perf_counter() - start)
                proposed = sum(one.proposed for one in stats) / size
                best[name, size] = max(best.get((name, size), (0.0, 0.0)), (rate, proposed))
    table = Table(title=f"{target} with {draft}, bfloat16, greedy, {length} tokens")
    table.add_column("tokens/s (proposed to a text)")
    for size in counts:
        table.add_column(str(size), justify="right")
    for name in decoders:
        table.add_row(name, *("{:.1f} ({:.0f})".format(*best[name, size]) for size in counts))
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
