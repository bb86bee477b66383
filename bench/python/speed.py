"""Generation speed over the target alone, prompt by prompt, in one process.

Each prompt runs through ``target.generate``, our loop without a drafter, and our loop with one; the
faster of the first two is the target alone. Greedy ids are compared before anything is timed by.

The latter two take turns ``--repeats`` times and their medians count. On a machine with other work
a run can fall into a time of little memory bandwidth, which is what decoding lives on: it is
measured before and after each run, and a run beside which it fell below ``--steady`` of the best
seen is done again, up to ``--retries`` times.

    python bench/python/speed.py --target qwen2.5-coder-1.5b --draft smollm2-135m
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

import tokentiming as tt
from timing import copy_bandwidth

PROMPTS = Path(__file__).parent.parent / "data" / "prompts.jsonl"
console = Console(width=110)


class Clock:
    """Times runs, and repeats those that were disturbed."""

    def __init__(self, steady: float, retries: int) -> None:
        self._steady = steady
        self._retries = retries
        self._best = max(copy_bandwidth() for _ in range(5))
        self.disturbed = 0
        """Runs that were done again, or kept disturbed when there were no retries left."""

    def time(self, run):
        """The result of a run, and its seconds."""
        for attempt in range(self._retries + 1):
            before = copy_bandwidth()
            start = time.perf_counter()
            result = run()
            seconds = time.perf_counter() - start
            least = min(before, copy_bandwidth())
            self._best = max(self._best, before)
            if least >= self._steady * self._best:
                break
            self.disturbed += 1
            if attempt < self._retries:
                time.sleep(5)
        return result, seconds


def measure(decoder, alone, clock: Clock, prompt: str, length: int, sampling: dict, repeats: int):
    """Median seconds a token of the three ways, and the speculative run's statistics."""
    messages = [{"role": "user", "content": prompt}]
    tokenizer, target = decoder.target_tokenizer, decoder.target_model
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    torch.manual_seed(0)
    reference, spent = clock.time(lambda: target.generate(**ids, max_new_tokens=length, **sampling))
    new = reference.shape[1] - ids["input_ids"].shape[1]
    seconds: dict[str, list[float]] = {"generate": [spent / new], "alone": [], "speculative": []}
    outputs = {}
    for _ in range(repeats):
        for way, source in (("alone", alone), ("speculative", decoder)):
            outputs[way], spent = clock.time(
                lambda source=source: source.generate(
                    messages, max_new_tokens=length, seed=0, **sampling
                )
            )
            seconds[way].append(spent / outputs[way].stats.tokens)
    expected = outputs["alone"].sequences if sampling["do_sample"] else reference
    result = {name: statistics.median(values) for name, values in seconds.items()}
    result["same_ids"] = torch.equal(expected, outputs["speculative"].sequences)
    result["ratio"] = min(result["generate"], result["alone"]) / result["speculative"]
    ratios = [a / s for a, s in zip(seconds["alone"], seconds["speculative"], strict=True)]
    result["spread"] = min(ratios), max(ratios)
    result["stats"] = outputs["speculative"].stats
    return result


def main(
    target: Annotated[str, typer.Option(help="Target model.")] = "qwen2.5-coder-1.5b",
    draft: Annotated[str, typer.Option(help="Draft model.")] = "smollm2-135m",
    method: Annotated[str, typer.Option(help="Method.")] = "coupled",
    length: Annotated[int, typer.Option(help="New tokens.")] = 64,
    repeats: Annotated[int, typer.Option(help="Runs of our loops; medians count.")] = 3,
    steady: Annotated[float, typer.Option(help="Least share of the best bandwidth.")] = 0.6,
    retries: Annotated[int, typer.Option(help="Runs again of a disturbed run.")] = 3,
    only: Annotated[str, typer.Option(help="Comma-separated names of prompts.")] = "",
    dtype: Annotated[str, typer.Option(help="Dtype of both models.")] = "bfloat16",
) -> None:
    """Print a table for greedy decoding and one for sampling at temperature 1."""
    decoder = tt.SpeculativeDecoder.from_pretrained(
        target, draft, method=method, dtype=getattr(torch, dtype)
    )
    alone = tt.SpeculativeDecoder(decoder.target_model, decoder.target_tokenizer)
    prompts = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    prompts = [p for p in prompts if not only or p["name"] in only.split(",")]
    greedy = {"do_sample": False, "repetition_penalty": 1.0}
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    sampling["repetition_penalty"] = 1.0
    clock = Clock(steady, retries)
    measure(decoder, alone, clock, "Warm up.", 8, greedy, 1)
    for title, options in (("greedy", greedy), ("T = 1", sampling)):
        table = Table(title=f"{target} with {draft}, {method}, {dtype}, {length} tokens, {title}")
        for column in ("prompt", "generate", "alone", "ours", "ratio", "spread"):
            table.add_column(column, justify="left" if column == "prompt" else "right")
        for column in ("accepted", "tok/fwd", "drafting", "ids"):
            table.add_column(column, justify="right")
        ratios = []
        for prompt in prompts:
            row = measure(decoder, alone, clock, prompt["prompt"], length, options, repeats)
            ratios.append(row["ratio"])
            stats = row["stats"]
            table.add_row(
                prompt["name"],
                *(f"{1 / row[key]:.2f}" for key in ("generate", "alone", "speculative")),
                f"{row['ratio']:.2f}",
                "{:.2f}-{:.2f}".format(*row["spread"]),
                f"{stats.acceptance_rate:.0%}",
                f"{stats.tokens_per_forward:.2f}",
                f"{stats.stage_seconds['drafting'] / stats.seconds:.0%}",
                "same" if row["same_ids"] else "differ",
            )
            console.print(f"{title:7} {prompt['name']:25} {row['ratio']:.2f}", highlight=False)
        console.print(table)
        mean = statistics.geometric_mean(ratios)
        console.print(f"geometric mean {mean:.2f}, lowest {min(ratios):.2f} (tokens/s above)")
    console.print(f"{clock.disturbed} disturbed runs")


if __name__ == "__main__":
    typer.run(main)
