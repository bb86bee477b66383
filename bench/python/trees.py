"""Shapes of proposals: tokens for each pass of the target, and speed by two models of costs.

Each prompt runs through one loop with each shape in turn. Greedy ids are compared with those of the
target alone. They may differ where two logits are about equal, because a pass over several tokens
rounds in another way; a difference beyond that is an error.

The rounds are replayed by two models of costs. ``cpu`` is this machine: the medians of the same
run and temperature. ``gpu`` has passes that cost the same up to 64 rows, and a level of drafting a
tenth of that. Speed is given over the target alone, and over chains that adapt to these costs. The
round that reads the prompt is left out of all figures.

    python bench/python/trees.py --only math,coding --length 24

``--json`` keeps the figures and every round too, rewritten after each prompt.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import tokentiming as tt
from prompts import chosen, given, sampling_at
from rounds import (
    ALONE,
    CHAINS,
    GPU,
    GPU_LEVEL,
    GPU_ROW,
    CostModel,
    KnownCosts,
    Recorder,
    Results,
    Shape,
    mean_tokens,
)
from tokentiming.bench.difference import TIES, difference
from tokentiming.cli import demo_models as models
from tokentiming.engine.adaptive import AdaptiveBudget
from tokentiming.engine.budget import FixedBudget
from tokentiming.engine.costs import Costs
from tokentiming.tokens.prompts import parse

console = Console(width=132)


def fixed(**shape: int) -> Shape:
    return Shape(lambda: FixedBudget(**shape))


def adaptive(candidates: int, costs: Costs, model: CostModel | None = None) -> Shape:
    """A new budget for each text and the same costs for all, as in the decoder."""
    return Shape(lambda: AdaptiveBudget(costs, candidates=candidates), model)


def all_shapes() -> dict[str, Shape]:
    # Rows cost nothing up to 64, and a budget proposes no more. The small price leaves out nodes
    # that are almost never emitted.
    known = {row: KnownCosts((1.0, GPU_LEVEL), row) for row in (0.0, GPU_ROW)}
    return {
        ALONE: fixed(depth=0),
        **{f"chain{depth}": fixed(depth=depth) for depth in (3, 5, 7)},
        "comb5": fixed(depth=3, nodes=5, candidates=4),
        "comb14": fixed(depth=6, nodes=14, candidates=4),
        **{f"tree{n}": fixed(depth=6, nodes=n, width=n, candidates=8) for n in (8, 16, 32)},
        "adaptive-chain": adaptive(1, Costs()),
        "adaptive": adaptive(4, Costs()),
        "gpu-chain": adaptive(1, known[0.0], GPU),
        "gpu-adaptive": adaptive(4, known[GPU_ROW], GPU),
    }


class Bench:
    """One loop that proposes any shape.

    Args:
        parts: the target model and its tokenizer.
        draft: the draft model and its tokenizer.
        length: new tokens.

    Raises:
        SystemExit: one of the models reads no trees with branches.
    """

    def __init__(self, parts: Sequence[Any], draft: Sequence[Any], length: int) -> None:
        self._model, self._tokenizer = parts
        self._recorder = Recorder()
        self._recorder.start(fixed(depth=1))
        drafter = tt.ModelDrafter(*draft)
        self._decoder = tt.SpeculativeDecoder(*parts, drafter, budget=self._recorder)
        if not (drafter.supports_forests and self._decoder.runner.supports_forests):
            raise SystemExit("a model reads chains only; load it with attn_implementation='sdpa'")
        self._length = length
        self.gaps: list[float] = []
        """Of the logits where greedy ids differ from those of the target alone."""

    def run(self, text: str, shape: Shape, sampling: dict[str, Any]) -> torch.Tensor:
        self._recorder.start(shape)
        prompt = given(text, self._tokenizer)
        output = self._decoder.generate(prompt, max_new_tokens=self._length, seed=0, **sampling)
        if output.stats.draft_failure:
            raise RuntimeError(f"the draft failed: {output.stats.draft_failure}")
        return output.sequences[0]

    def compare(
        self, prompt: dict, shapes: dict[str, Shape], sampling: dict, into: Results
    ) -> None:
        """Run a prompt with all shapes, the target alone first.

        Raises:
            SystemExit: a text ended in the round that read the prompt, which is not recorded.
        """
        rounds = into.rounds[prompt["name"]] = {}
        length = len(parse(given(prompt["prompt"], self._tokenizer), self._tokenizer)[0].ids)
        for name, shape in shapes.items():
            ids = self.run(prompt["prompt"], shape, sampling)
            rounds[name] = self._recorder.rounds
            if not rounds[name]:
                raise SystemExit(f"{prompt['name']}, {name}: the text is too short; leave it out")
            differing = into.differing.setdefault(name, [])
            if name == ALONE:
                alone = ids
            if torch.equal(alone, ids):
                continue
            differing.append(prompt["name"])
            found = difference(self._model, alone, ids, length)
            if found is not None and not sampling["do_sample"]:
                self.gaps.append(abs(found.gap))
                where = f"after {found.position} tokens, logits {found.gap:+.3f} apart"
                console.print(f"{prompt['name']}, {name}: other ids {where}", highlight=False)


def mean_and_range(values: Sequence[float]) -> str:
    mean = statistics.geometric_mean(values)
    return f"{mean:.2f} ({min(values):.2f}-{max(values):.2f})"


def new_table(title: str) -> Table:
    table = Table(title=title)
    table.add_column("shape")
    for column in ("tok/fwd", "levels", "draft rows", "rows"):
        table.add_column(column, justify="right")
    for model in CHAINS:
        table.add_column(f"{model}/alone", justify="right")
        table.add_column(f"{model}/chain", justify="right")
    table.add_column("ids", justify="right")
    return table


def cells(found: dict[str, Any], prompts: int) -> list[str]:
    line = [mean_and_range(found["tokens"])]
    line += [f"{found[name]:.1f}" for name in ("levels", "draft_rows", "target_rows")]
    for model in CHAINS:
        line.append(mean_and_range(found[f"{model}_over_alone"]))
        line.append(f"{statistics.geometric_mean(found[f'{model}_over_chain']):.2f}")
    differing = len(found["differing"])
    return [*line, f"{differing} of {prompts} differ" if differing else "same"]


def main(
    target: Annotated[str, typer.Option(help="Target model.")] = "qwen2.5-coder-1.5b",
    draft: Annotated[str, typer.Option(help="Draft model.")] = "smollm2-135m",
    length: Annotated[int, typer.Option(help="New tokens.")] = 64,
    only: Annotated[str, typer.Option(help="Comma-separated names of prompts.")] = "",
    shapes: Annotated[str, typer.Option(help=f"Of {', '.join(all_shapes())}.")] = "",
    temperatures: Annotated[str, typer.Option(help="Comma-separated; 0 is greedy.")] = "0,1",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write figures here.")] = None,
) -> None:
    """Print a table for each temperature."""
    wanted = all_shapes()
    if shapes:
        if unknown := set(shapes.split(",")) - set(wanted):
            raise SystemExit(f"--shapes: no shape is called {', '.join(sorted(unknown))}")
        kept = {ALONE, *CHAINS.values(), *shapes.split(",")}
        wanted = {name: shape for name, shape in wanted.items() if name in kept}
    prompts = chosen(only)
    loaded = [models.load(models.resolve(m), torch.bfloat16, "cpu") for m in (target, draft)]
    bench = Bench(*loaded, length)
    run: dict[str, Any] = {"target": target, "draft": draft, "length": length}
    for temperature in (float(t) for t in temperatures.split(",")):
        sampling = sampling_at(temperature)
        bench.run("Warm up.", fixed(depth=3), sampling)
        results = Results()
        for prompt in prompts:
            bench.compare(prompt, wanted, sampling, results)
            rounds = results.rounds[prompt["name"]]
            means = {name: mean_tokens(of_shape) for name, of_shape in rounds.items()}
            line = ", ".join(f"{name} {tokens:.2f}" for name, tokens in means.items())
            console.print(f"T = {temperature:g}, {prompt['name']}: {line}", highlight=False)
            costs = results.models()
            figures = {name: results.figures(name, costs) for name in wanted}
            run[f"{temperature:g}"] = {"figures": figures, "rounds": results.plain()}
            if json_path is not None:
                json_path.write_text(json.dumps(run, indent=1))
        table = new_table(f"{target} with {draft}, bfloat16, {length} tokens, T = {temperature:g}")
        for name, found in figures.items():
            table.add_row(name, *cells(found, len(prompts)))
        console.print(table)
    if bench.gaps and max(bench.gaps) > TIES[torch.bfloat16]:
        raise SystemExit(f"greedy ids differ where the logits are {max(bench.gaps):.3f} apart")


if __name__ == "__main__":
    typer.run(main)
