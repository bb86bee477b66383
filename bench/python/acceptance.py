"""How often each method's first proposed token is accepted, position by position of four texts.

Both models read the same text, in English, code, Chinese and Russian, each in its own tokens. At
every target position the target's distribution ``p`` and the draft's distribution are taken from
what stands before it, and all methods are judged on these two:

- ``pushforward`` and ``tli`` accept with probability ``sum of min(p, q)``, which is worked out;
- ``coupled`` and ``slem`` draw, from some seeds: accepted is a target token whose bytes the draft
  spells, in as many of its own tokens as that takes;
- at temperature 0 all methods are one, ``greedy``.

    python bench/python/acceptance.py --target gemma-3-270m --draft smollm2-135m --out pair.jsonl
    python bench/python/acceptance.py --out pair.jsonl --table

The first form measures (``--only english`` a part) and appends a line a position to a file, the
second prints the file as a table: means, and 95% intervals over positions.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import torch
import typer

import tokentiming as tt
from tokentiming import ops
from tokentiming.cli import demo_models as models
from tokentiming.noise import Noise, Place, State, race
from tokentiming.runners.torch import TorchRunner
from tokentiming.tokens.transcode import Context, unfinished
from tokentiming.tokens.tree import NO_TREE, Tree

TEXTS = Path(__file__).parent.parent / "data" / "texts"
LANGUAGES = ("english", "code", "chinese", "russian")
METHODS = ("pushforward", "tli", "coupled", "slem")
TEMPERATURES = (0.6, 1.0)
FIRST = 8
"""Positions at the beginning, where there is hardly a context, are left out."""
CHUNK = 250


class Draft:
    """The draft model at a place in the text, and after strings of its own that follow."""

    def __init__(self, model, tokenizer) -> None:
        self.vocabulary = vocabulary_of(model, tokenizer)
        self._runner = TorchRunner(model)
        self._prompt = tokenizer("").input_ids
        self._context = Context(self.vocabulary)

    def read(self, text: bytes) -> None:
        self._written = self._context.follow(text)
        self._known: dict[tuple[int, ...], torch.Tensor] = {}

    def scores(self, written: tuple[int, ...] = ()) -> torch.Tensor:
        if written not in self._known:
            ids = [*self._prompt, *self._written, *written]
            row = self._runner.read([ids], [NO_TREE])[0][0]
            self._known[written] = row[: len(self.vocabulary)].float()
        return self._known[written]

    def spells(self, goal: bytes, choose) -> bool:
        """Whether the tokens that it chooses one after another begin with these bytes."""
        written: tuple[int, ...] = ()
        data = b""
        while len(data) < len(goal) and goal.startswith(data):
            token = choose(self.scores(written), data)
            piece = self.vocabulary.token_bytes(token)
            if not piece:
                return False
            written, data = (*written, token), data + piece
        return data.startswith(goal)


def vocabulary_of(model, tokenizer) -> tt.Vocabulary:
    return tt.Vocabulary.from_tokenizer(
        tokenizer, eos_token_ids=model.generation_config.eos_token_id
    )


def target_rows(model, ids: list[int]):
    """Scores before each position, in the target's own reading of the text."""
    runner = TorchRunner(model)
    for start in range(0, len(ids), CHUNK):
        chunk = Tree.chain(ids[start + 1 : start + CHUNK])
        for j, row in enumerate(runner.read([ids[: start + 1]], [chunk])[0]):
            yield start + j + 1, row.float()


def raced(noise: Noise, scores, vocabulary, offset: int) -> int:
    """The token that wins at a place in the text."""
    return int(race(scores[None], vocabulary, [Place(noise, State(offset))]))


def drawn(draft: Draft, target, row, temperature: float, seeds: int, offset: int) -> dict:
    """Shares of seeds with which the draft spells what the target draws."""
    accepted = dict.fromkeys(("coupled", "slem"), 0)
    for seed in range(seeds):
        shared = Noise(seed)
        stream = Noise(seed, offset).draft
        goal = target.token_bytes(raced(shared, row / temperature, target, offset))

        def coupled(scores, data, shared=shared):
            return raced(shared, scores / temperature, draft.vocabulary, offset + len(data))

        def draw(scores, data, stream=stream):
            return int(stream.draw(torch.softmax(scores[None] / temperature, 1)))

        if goal:
            accepted["coupled"] += draft.spells(goal, coupled)
            accepted["slem"] += draft.spells(goal, draw)
    return {name: count / seeds for name, count in accepted.items()}


def position(draft: Draft, target, mapped, row, seeds: int, offset: int) -> dict:
    """Acceptance at one position: ``{temperature: {method: probability}}``."""
    row = row[: len(target)]
    goal = target.token_bytes(int(row.argmax()))
    spelled = bool(goal) and draft.spells(goal, lambda scores, data: int(scores.argmax()))
    result = {"0": {"greedy": float(spelled)}}
    for temperature in TEMPERATURES:
        p = torch.softmax(row / temperature, 0)
        distribution = torch.softmax(draft.scores() / temperature, 0)
        pushed = mapped.push_forward(distribution, len(target))
        shared = ops.restrict(distribution[None], mapped.core, columns=len(target))[0]
        result[str(temperature)] = {
            "pushforward": float(torch.minimum(p, pushed).sum()),
            "tli": float(torch.minimum(p, shared).sum()),
            **drawn(draft, target, row, temperature, seeds, offset),
        }
    return result


def measure(target, draft, languages, seeds: int, out: Path) -> None:
    held = (
        {json.loads(line)["language"] for line in out.read_text().splitlines()}
        if out.exists()
        else set()
    )
    if again := held & set(languages):
        raise SystemExit(f"{out} holds {', '.join(sorted(again))} already; name another file")
    model, tokenizer = target
    vocabulary = vocabulary_of(model, tokenizer)
    prompt = tokenizer("").input_ids or [vocabulary.eos_ids[0]]
    for language in languages:
        text = (TEXTS / f"{language}.txt").read_bytes()
        ids = vocabulary.encode(text)
        reader = Draft(*draft)
        mapped = tt.VocabularyMap.build(reader.vocabulary, vocabulary)
        with out.open("a") as file, torch.inference_mode():
            for read, row in target_rows(model, [*prompt, *ids]):
                i = read - len(prompt)
                before = vocabulary.decode(ids[: max(i, 0)])
                if i < FIRST or i >= len(ids) or unfinished(before):
                    continue
                reader.read(before)
                rates = position(reader, vocabulary, mapped, row, seeds, len(before))
                file.write(json.dumps({"language": language, "at": i, "rates": rates}) + "\n")


def interval(values: list[float], form: str = ".2f") -> str:
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):{form}} ± {half:{form.lstrip('+')}}"


def print_table(out: Path) -> None:
    """Means and 95% intervals, the best of a row in bold; the last column is paired."""
    groups: dict[str, list[dict]] = defaultdict(list)
    for line in map(json.loads, out.read_text().splitlines()):
        groups[line["language"]].append(line["rates"])
    groups["all"] = [rates for group in list(groups.values()) for rates in group]
    names = " | ".join(f"`{name}`" for name in METHODS)
    print(f"| text (positions) | T = 0 | T | {names} | `pushforward` less `coupled` |")
    print("|---|---:|---:|" + "---:|" * (len(METHODS) + 1))
    for text, rates in groups.items():
        greedy = interval([rate["0"]["greedy"] for rate in rates])
        row = f"| {text.capitalize()} ({len(rates):,}) | {greedy} |"
        for temperature in map(str, TEMPERATURES):
            row += f" {temperature} |"
            values = {name: [rate[temperature][name] for rate in rates] for name in METHODS}
            best = max(map(statistics.mean, values.values()))
            for name in METHODS:
                bold = "**" if statistics.mean(values[name]) > best - 0.005 else ""
                row += f" {bold}{interval(values[name])}{bold} |"
            pairs = zip(values["pushforward"], values["coupled"], strict=True)
            row += f" {interval([left - right for left, right in pairs], '+.3f')} |"
            print(row)
            row = "| | |"


def main(
    target: Annotated[str, typer.Option(help="Target model.")] = "qwen2.5-coder-1.5b",
    draft: Annotated[str, typer.Option(help="Draft model.")] = "smollm2-135m",
    out: Annotated[Path, typer.Option(help="File of measured positions.")] = Path("pair.jsonl"),
    only: Annotated[str, typer.Option(help=f"Texts, of {', '.join(LANGUAGES)}.")] = "",
    seeds: Annotated[int, typer.Option(help="Draws at each position.")] = 8,
    table: Annotated[bool, typer.Option(help="Print the file instead of measuring.")] = False,
) -> None:
    """Measure a pair, or print what was measured."""
    if not table:
        pair = [
            models.load(models.resolve(name), torch.bfloat16, "cpu") for name in (target, draft)
        ]
        measure(*pair, only.split(",") if only else LANGUAGES, seeds, out)
    print_table(out)


if __name__ == "__main__":
    typer.run(main)
