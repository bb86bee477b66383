"""Generation speed over the target alone, prompt by prompt, in one process.

Each prompt runs through ``target.generate``, our loop without a drafter, and our loop with one; the
faster of the first two is the target alone. ``--with-assisted`` adds transformers' own assisted
generation with the same draft. Greedy ids are compared with those of ``generate``.

The latter two take turns ``--repeats`` times and their medians count. Decoding is bound by memory
bandwidth, which other work on the machine can take away. It is measured before and after each run,
and a run during which it fell below ``--steady`` of the best is repeated up to ``--retries`` times.

    python bench/python/speed.py --target qwen2.5-coder-1.5b --draft smollm2-135m

``--json`` keeps the figures too, rewritten after each prompt.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

import tokentiming as tt
from clock import Clock
from prompts import chosen, sampling_at
from tokentiming.cli import demo_models as models

console = Console(width=110)


@dataclass(frozen=True)
class Ways:
    """Seconds a token of each run of each way to generate one text, and what the loops returned."""

    seconds: dict[str, list[float]]
    outputs: dict[str, tt.SpeculativeOutput]
    reference: torch.Tensor | None
    """The ids that ``generate`` gave."""

    def median(self, way: str) -> float:
        """Infinite for a way that was left out."""
        return statistics.median(self.seconds[way] or [math.inf])

    def ratio(self, method: str) -> float:
        """Speed over the target alone."""
        return min(self.median(way) for way in ("generate", "alone")) / self.median(method)

    def spread(self, method: str) -> tuple[float, float]:
        """Least and greatest speed over our loop alone, turn by turn."""
        turns = zip(self.seconds["alone"], self.seconds[method], strict=True)
        ratios = [alone / ours for alone, ours in turns]
        return min(ratios), max(ratios)


def measure(
    decoders: dict[str, tt.SpeculativeDecoder],
    clock: Clock,
    prompt: str,
    length: int,
    sampling: dict,
    repeats: int,
    with_generate: bool,
) -> Ways:
    """Run a prompt through ``generate`` once, and through each decoder in turns."""
    messages = [{"role": "user", "content": prompt}]
    ways = Ways({"generate": [], **{way: [] for way in decoders}}, {}, None)
    if with_generate:
        ways = generated(decoders["alone"], clock, messages, length, sampling, ways)
    for _ in range(repeats):
        for way, decoder in decoders.items():
            ways.outputs[way], spent = clock.time(
                lambda decoder=decoder: decoder.generate(
                    messages, max_new_tokens=length, seed=0, **sampling
                )
            )
            ways.seconds[way].append(spent / ways.outputs[way].stats.tokens)
    return ways


def generated(alone, clock: Clock, messages, length: int, sampling: dict, ways: Ways) -> Ways:
    """The ways with the time and the ids of ``generate``."""
    ids = alone.target_tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(alone.target_model.device)
    torch.manual_seed(0)
    reference, spent = clock.time(
        lambda: alone.target_model.generate(**ids, max_new_tokens=length, **sampling)
    )
    ways.seconds["generate"].append(spent / (reference.shape[1] - ids["input_ids"].shape[1]))
    return replace(ways, reference=reference)


def assisted(
    alone, assistant, clock: Clock, prompt: str, length: int, sampling: dict, ways: Ways
) -> dict:
    """Tokens a second of transformers' way for unlike tokenizers; or why it does not run."""
    messages = [{"role": "user", "content": prompt}]
    tokenizer = alone.target_tokenizer
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(alone.target_model.device)
    assistant_model, assistant_tokenizer = assistant
    torch.manual_seed(0)
    try:
        found, spent = clock.time(
            lambda: alone.target_model.generate(
                **ids,
                max_new_tokens=length,
                assistant_model=assistant_model,
                tokenizer=tokenizer,
                assistant_tokenizer=assistant_tokenizer,
                **sampling,
            )
        )
    except Exception as error:  # not ours: what it is compared with is worth having
        return {"error": f"{type(error).__name__}: {error}"}
    rate = (found.shape[1] - ids["input_ids"].shape[1]) / spent
    if sampling["do_sample"] or ways.reference is None:
        return {"rate": rate}
    return {"rate": rate, "ids": "same" if torch.equal(found, ways.reference) else "differ"}


def new_table(title: str) -> Table:
    table = Table(title=title)
    for column in ("prompt", "method"):
        table.add_column(column)
    for column in ("generate", "alone", "ours", "ratio", "spread"):
        table.add_column(column, justify="right")
    for column in ("accepted", "tok/fwd", "drafting", "ids"):
        table.add_column(column, justify="right")
    return table


def figures(ways: Ways, method: str, do_sample: bool) -> dict:
    """Of one prompt and method: rates in tokens a second, ratios, shares of drafts and of time."""
    stats = ways.outputs[method].stats
    alone = ways.outputs["alone"].sequences
    expected = alone if do_sample or ways.reference is None else ways.reference
    least, greatest = ways.spread(method)
    return {
        "generate": 1 / ways.median("generate"),
        "alone": 1 / ways.median("alone"),
        "ours": 1 / ways.median(method),
        "ratio": ways.ratio(method),
        "least": least,
        "greatest": greatest,
        "accepted": stats.acceptance_rate,
        "tokens_per_forward": stats.tokens_per_forward,
        "drafting": stats.stage_seconds["drafting"] / stats.seconds,
        "ids": "same" if torch.equal(expected, ways.outputs[method].sequences) else "differ",
    }


def cells(found: dict) -> list[str]:
    return [
        *(f"{found[rate]:.2f}" for rate in ("generate", "alone", "ours", "ratio")),
        "{least:.2f}-{greatest:.2f}".format(**found),
        "-" if found["accepted"] is None else f"{found['accepted']:.0%}",
        f"{found['tokens_per_forward']:.2f}",
        f"{found['drafting']:.0%}",
        found["ids"],
    ]


def main(
    target: Annotated[str, typer.Option(help="Target model.")] = "qwen2.5-coder-1.5b",
    draft: Annotated[str, typer.Option(help="Draft model.")] = "smollm2-135m",
    methods: Annotated[str, typer.Option(help="Methods, comma-separated.")] = "coupled",
    length: Annotated[int, typer.Option(help="New tokens.")] = 64,
    repeats: Annotated[int, typer.Option(help="Runs of our loops; medians count.")] = 3,
    steady: Annotated[float, typer.Option(help="Least share of the best bandwidth.")] = 0.6,
    retries: Annotated[int, typer.Option(help="Runs again of a disturbed run.")] = 3,
    only: Annotated[str, typer.Option(help="Comma-separated names of prompts.")] = "",
    with_generate: Annotated[bool, typer.Option(help="Run transformers' generate too.")] = True,
    temperatures: Annotated[str, typer.Option(help="Comma-separated; 0 is greedy.")] = "0,1",
    with_assisted: Annotated[bool, typer.Option(help="Run its assisted generation too.")] = False,
    dtype: Annotated[str, typer.Option(help="Dtype of both models.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="Where both models go.")] = "cpu",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write figures here.")] = None,
) -> None:
    """Print a table for each temperature."""
    load = partial(models.load, dtype=getattr(torch, dtype), device=device)
    parts, draft_parts = (load(models.resolve(name)) for name in (target, draft))
    drafter = tt.ModelDrafter(*draft_parts)
    decoders = {"alone": tt.SpeculativeDecoder(*parts)}
    for method in methods.split(","):
        decoders[method] = tt.SpeculativeDecoder(*parts, drafter, method=method)
    prompts = chosen(only)
    clock = Clock(steady, retries, parts[0].device)
    run = {"target": target, "draft": draft, "dtype": dtype, "device": device, "length": length}
    rows: list[dict] = []
    for temperature in (float(t) for t in temperatures.split(",")):
        sampling = sampling_at(temperature)
        title = f"T = {temperature:g}" if temperature else "greedy"
        table = new_table(f"{target} with {draft}, {dtype}, {length} tokens, {title}")
        ratios: dict[str, list[float]] = {method: [] for method in methods.split(",")}
        # A draft of its own: where it samples, transformers prunes the assistant and leaves it so.
        assistant = load(models.resolve(draft)) if with_assisted else None
        ways = measure(decoders, clock, "Warm up.", 8, sampling, 1, with_generate)
        if assistant:
            assisted(decoders["alone"], assistant, clock, "Warm up.", 8, sampling, ways)
        for prompt in prompts:
            text = prompt["prompt"]
            ways = measure(decoders, clock, text, length, sampling, repeats, with_generate)
            row = {"temperature": temperature, "prompt": prompt["name"]}
            if assistant:
                row["assisted"] = assisted(
                    decoders["alone"], assistant, clock, text, length, sampling, ways
                )
                line = f"assisted {row['assisted']}"
                console.print(title, prompt["name"], line, highlight=False)
            for method, of_method in ratios.items():
                row[method] = figures(ways, method, sampling["do_sample"])
                line = cells(row[method])
                table.add_row(prompt["name"], method, *line)
                of_method.append(ways.ratio(method))
                console.print(title, prompt["name"], method, *line, highlight=False)
            rows.append(row)
            if json_path is not None:
                kept = run | {"disturbed": clock.disturbed, "rows": rows}
                json_path.write_text(json.dumps(kept, indent=1))
        console.print(table)
        for method, of_method in ratios.items():
            mean = statistics.geometric_mean(of_method)
            console.print(f"{method}: geometric mean {mean:.2f}, lowest {min(of_method):.2f}")
    console.print(f"tokens/s above; {clock.disturbed} disturbed runs")


if __name__ == "__main__":
    typer.run(main)
