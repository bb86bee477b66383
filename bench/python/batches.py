"""Tokens a second of a batch: prompts one by one and together, with a draft and without.

Each turn runs all prompts in four ways: with ``batch_size=1`` and with ``--batch-size``, by the
target alone and with a draft. Ratios are taken within a turn; medians of the turns count. Before
anything is timed, the ids are compared with those of the target alone, one by one. In float32 they
have to be equal; in bfloat16 a pass over several texts rounds in another way than one over a single
text, and it is reported how many texts differ.

    python bench/python/batches.py --target gemma-3-270m --draft smollm2-135m

``--json`` keeps the figures too.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import tokentiming as tt
from clock import Clock
from prompts import chosen, given, sampling_at
from tokentiming.bench.difference import difference
from tokentiming.cli import demo_models as models
from tokentiming.tokens.prompts import parse

RATIOS = {
    "together over one by one, alone": (("alone", True), ("alone", False)),
    "together over one by one, drafted": (("drafted", True), ("drafted", False)),
    "drafted over alone, one by one": (("drafted", False), ("alone", False)),
    "drafted over alone, together": (("drafted", True), ("alone", True)),
}
REFERENCE = ("alone", False)
console = Console(width=100)

Way = tuple[str, bool]
"""Which decoder, and whether the prompts run together."""


@dataclass
class Batches:
    """The prompts, and the decoders that continue them.

    Args:
        decoders: ``alone`` and ``drafted``.
        texts: of the prompts.
        batch_size: of prompts that run together.
        length: new tokens.
    """

    decoders: dict[str, tt.SpeculativeDecoder]
    texts: Sequence[str]
    batch_size: int
    length: int

    @property
    def ways(self) -> list[Way]:
        return [(name, together) for together in (False, True) for name in self.decoders]

    def run(self, way: Way, sampling: dict[str, Any]) -> tt.SpeculativeOutput:
        name, together = way
        decoder = self.decoders[name]
        output = decoder.generate(
            [given(text, decoder.target_tokenizer) for text in self.texts],
            max_new_tokens=self.length,
            batch_size=self.batch_size if together else 1,
            seed=0,
            **sampling,
        )
        if failures := {stats.draft_failure for stats in output.stats} - {None}:
            raise RuntimeError(f"the draft failed: {failures}")
        return output

    def ids(self, output: tt.SpeculativeOutput) -> list[tuple[torch.Tensor, int]]:
        """Of each text the ids without padding, and how many of them are the prompt's."""
        tokenizer = self.decoders["alone"].target_tokenizer
        prompts = [len(parse(given(text, tokenizer), tokenizer)[0].ids) for text in self.texts]
        return [
            (row[: prompt + stats.tokens], prompt)
            for row, prompt, stats in zip(output.sequences, prompts, output.stats, strict=True)
        ]


def differing(batches: Batches, sampling: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each way how many texts are not those of the target alone, and where logits decided.

    The gaps are of greedy decoding alone: with sampling, the noise decides too.
    """
    expected = batches.ids(batches.run(REFERENCE, sampling))
    target = batches.decoders["alone"].target_model
    found: dict[str, dict[str, Any]] = {}
    for way in batches.ways[1:]:
        texts, gaps = 0, []
        outputs = batches.ids(batches.run(way, sampling))
        for (left, prompt), (right, _) in zip(expected, outputs, strict=True):
            if torch.equal(left, right):
                continue
            texts += 1
            first = None if sampling["do_sample"] else difference(target, left, right, prompt)
            gaps += [] if first is None else [abs(first.gap)]
        found[label(way)] = {"texts": texts, "gaps": gaps}
    return found


def measure(
    batches: Batches, clock: Clock, sampling: dict[str, Any], turns: int
) -> dict[Way, list[float]]:
    """Tokens a second of each way in each turn."""
    rates: dict[Way, list[float]] = {way: [] for way in batches.ways}
    for turn in range(turns):
        for way in batches.ways if turn % 2 == 0 else reversed(batches.ways):
            output, seconds = clock.time(partial(batches.run, way, sampling))
            rates[way].append(sum(stats.tokens for stats in output.stats) / seconds)
    return rates


def label(way: Way) -> str:
    return f"{way[0]}, {'together' if way[1] else 'one by one'}"


def middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def report(title: str, rates: dict[Way, list[float]], ids: dict[str, dict[str, Any]]) -> Table:
    """The table of one temperature: medians, and the least and greatest turn."""
    table = Table(title=title)
    table.add_column("")
    table.add_column("tokens/s or ratio", justify="right")
    table.add_column("texts that differ", justify="right")
    for way, values in rates.items():
        found = ids.get(label(way))
        gap = f", logits up to {max(found['gaps']):.3f} apart" if found and found["gaps"] else ""
        table.add_row(label(way), middle(values), f"{found['texts']}{gap}" if found else "")
    table.add_section()
    for name, values in ratios(rates).items():
        table.add_row(name, middle(values))
    return table


def ratios(rates: dict[Way, list[float]]) -> dict[str, list[float]]:
    """Turn by turn."""
    return {
        name: [a / b for a, b in zip(rates[above], rates[below], strict=True)]
        for name, (above, below) in RATIOS.items()
    }


def main(
    target: Annotated[str, typer.Option(help="Target model.")] = "gemma-3-270m",
    draft: Annotated[str, typer.Option(help="Draft model.")] = "smollm2-135m",
    length: Annotated[int, typer.Option(help="New tokens.")] = 48,
    batch_size: Annotated[int, typer.Option(help="Prompts that run together.")] = 8,
    turns: Annotated[int, typer.Option(help="Runs of each way; medians count.")] = 3,
    steady: Annotated[float, typer.Option(help="Least share of the best bandwidth.")] = 0.6,
    retries: Annotated[int, typer.Option(help="Runs again of a disturbed run.")] = 3,
    only: Annotated[str, typer.Option(help="Comma-separated names of prompts.")] = "",
    temperatures: Annotated[str, typer.Option(help="Comma-separated; 0 is greedy.")] = "0,1",
    dtype: Annotated[str, typer.Option(help="Dtype of both models.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="Where both models go.")] = "cpu",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write figures here.")] = None,
) -> None:
    """Print a table for each temperature."""
    load = partial(models.load, dtype=getattr(torch, dtype), device=device)
    parts, draft_parts = (load(models.resolve(name)) for name in (target, draft))
    decoders = {
        "alone": tt.SpeculativeDecoder(*parts),
        "drafted": tt.SpeculativeDecoder(*parts, tt.ModelDrafter(*draft_parts)),
    }
    texts = [prompt["prompt"] for prompt in chosen(only)]
    batches = Batches(decoders, texts, batch_size, length)
    clock = Clock(steady, retries, parts[0].device)
    run: dict[str, Any] = {"target": target, "draft": draft, "dtype": dtype, "device": device}
    run |= {"length": length, "batch_size": batch_size, "prompts": len(texts)}
    for temperature in (float(t) for t in temperatures.split(",")):
        sampling = sampling_at(temperature)
        ids = differing(batches, sampling)  # which warms up as well
        if dtype == "float32" and any(found["texts"] for found in ids.values()):
            raise SystemExit(f"T = {temperature:g}: float32 ids differ: {ids}")
        rates = measure(batches, clock, sampling, turns)
        title = f"{target} with {draft}, {dtype}, {len(texts)} prompts, {length} tokens"
        console.print(report(f"{title}, T = {temperature:g}", rates, ids))
        run[f"{temperature:g}"] = {
            "ids": ids,
            "tokens_per_second": {label(way): values for way, values in rates.items()},
            "ratios": ratios(rates),
        }
        if json_path is not None:
            json_path.write_text(json.dumps(run, indent=1))
    console.print(f"{clock.disturbed} disturbed runs")


if __name__ == "__main__":
    typer.run(main)
