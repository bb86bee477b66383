"""Generation speed over the target alone, prompt by prompt, in one process.

Each prompt runs through ``target.generate``, our loop without a drafter, and our loop with one; the
faster of the first two is the target alone. Greedy ids are compared before anything is timed by.

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

PROMPTS = Path(__file__).parent.parent / "data" / "prompts.jsonl"
console = Console(width=110)


def timed(run):
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def measure(decoder, alone, prompt: str, length: int, sampling: dict, repeats: int) -> dict:
    """Median seconds a token of the three ways, and the speculative run's statistics."""
    messages = [{"role": "user", "content": prompt}]
    tokenizer, target = decoder.target_tokenizer, decoder.target_model
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    seconds: dict[str, list[float]] = {"generate": [], "alone": [], "speculative": []}
    for _ in range(repeats):
        torch.manual_seed(0)
        reference, spent = timed(lambda: target.generate(**ids, max_new_tokens=length, **sampling))
        new = reference.shape[1] - ids["input_ids"].shape[1]
        seconds["generate"].append(spent / new)
        plain, spent = timed(
            lambda: alone.generate(messages, max_new_tokens=length, seed=0, **sampling)
        )
        seconds["alone"].append(spent / plain.stats.tokens)
        output, spent = timed(
            lambda: decoder.generate(messages, max_new_tokens=length, seed=0, **sampling)
        )
        seconds["speculative"].append(spent / output.stats.tokens)
    expected = plain.sequences if sampling["do_sample"] else reference
    result = {name: statistics.median(values) for name, values in seconds.items()}
    result["spread"] = [min(seconds["speculative"]), max(seconds["speculative"])]
    result["same_ids"] = torch.equal(expected, output.sequences)
    result["ratio"] = min(result["generate"], result["alone"]) / result["speculative"]
    result["stats"] = output.stats
    return result


def main(
    target: Annotated[str, typer.Option(help="Target model.")] = "qwen2.5-coder-1.5b",
    draft: Annotated[str, typer.Option(help="Draft model.")] = "smollm2-135m",
    method: Annotated[str, typer.Option(help="Method.")] = "coupled",
    length: Annotated[int, typer.Option(help="New tokens.")] = 64,
    repeats: Annotated[int, typer.Option(help="Runs of each; medians are reported.")] = 1,
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
    measure(decoder, alone, "Warm up.", 8, greedy, 1)
    for title, options in (("greedy", greedy), ("T = 1", sampling)):
        table = Table(title=f"{target} with {draft}, {method}, {dtype}, {length} tokens, {title}")
        for column in ("prompt", "generate", "alone", "ours", "ratio"):
            table.add_column(column, justify="left" if column == "prompt" else "right")
        for column in ("accepted", "tok/fwd", "drafting", "ids"):
            table.add_column(column, justify="right")
        ratios = []
        for prompt in prompts:
            row = measure(decoder, alone, prompt["prompt"], length, options, repeats)
            ratios.append(row["ratio"])
            stats = row["stats"]
            table.add_row(
                prompt["name"],
                *(f"{1 / row[key]:.2f}" for key in ("generate", "alone", "speculative")),
                f"{row['ratio']:.2f}",
                f"{stats.acceptance_rate:.0%}",
                f"{stats.tokens_per_forward:.2f}",
                f"{stats.stage_seconds['drafting'] / stats.seconds:.0%}",
                "same" if row["same_ids"] else "differ",
            )
            console.print(f"{title:7} {prompt['name']:25} {row['ratio']:.2f}", highlight=False)
        console.print(table)
        mean = statistics.geometric_mean(ratios)
        console.print(f"geometric mean {mean:.2f}, lowest {min(ratios):.2f} (tokens/s above)")


if __name__ == "__main__":
    typer.run(main)
