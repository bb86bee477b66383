"""Writes docs/benchmarks.md and its plots from the runs that are kept in bench/data/runs.

    python bench/python/benchmarks_page.py

The runs are files that ``tokentiming bench`` wrote. All figures of the page come from them, except
those of other publications, which are marked as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tokentiming.bench.breakdown import stages
from tokentiming.bench.cells import BASELINE
from tokentiming.bench.plots import plots
from tokentiming.bench.records import Line, load
from tokentiming.bench.report import Figures, figures
from tokentiming.bench.statistics import Interval
from tokentiming.bench.systems import GENERATE

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "bench" / "data" / "runs"
DOCS = ROOT / "docs"

INTRODUCTION = """# Benchmarks

`python bench/python/benchmarks_page.py` writes this page from the runs in `bench/data/runs`.
Systems take turns at each prompt, and greedy ids are compared before a time counts. A ratio is the
speed over the target alone: `generate` of transformers, or our loop without a draft if that is
faster over all prompts. It is the geometric mean over prompts, with a 95% bootstrap interval. How a
run works is described in [performance.md](performance.md#systems-side-by-side). "Drafting" is
its share of the time, and "of the ideal" that of the target's passes: the share of the speed that
free drafting and free work of the host would give. The prompts are 18 of Spec-Bench and the first
one of each language in `bench/data/languages.jsonl`. A category of one prompt has no interval.
"""

PUBLISHED = """
## Published figures

They are of other models and machines, and are not comparable with the tables above.

| method | figure | source |
|---|---|---|
| TokenTiming | 1.57 and 2.27 times the target alone | [2510.15545] |
| SLEM, SLRS, TLI | up to 2.8 times | [2502.05202] |
| TLI in vLLM, target Qwen2.5-7B | acceptance 61% (draft Qwen-0.5B), 25% (SmolLM2-1.7B), 15% (TinyLlama) | vLLM |

[2510.15545]: https://arxiv.org/abs/2510.15545
[2502.05202]: https://arxiv.org/abs/2502.05202

Which share of a target's tokens a draft can propose is measured in
[performance.md](performance.md#tokens-that-a-draft-can-propose).
"""  # noqa: E501 - a row of a table is one line


def page(path: Path) -> Iterator[str]:
    """The section of one file of runs."""
    header, lines = load(path)
    arguments = header["arguments"]
    prompts = {name for line in lines for name in line["prompts"]}
    batch = arguments["batch_size"]
    together = f" in batches of {batch}" if batch > 1 else ""
    yield f"\n## {path.stem.replace('-', ' ')}\n"
    yield (
        f"Target {arguments['target']}, draft {arguments['draft']}, {arguments['dtype']}, "
        f"{len(prompts)} prompts{together}, {arguments['length']} new tokens, on "
        f"{header['processor']} with {header['threads']} threads, "
        f"torch {header['versions']['torch']}, transformers {header['versions']['transformers']}.\n"
    )
    found = figures(lines)
    over_generate = {(one.temperature, one.system): one.ratio for one in figures(lines, [GENERATE])}
    for temperature in dict.fromkeys(one.temperature for one in found):
        at = [one for one in found if one.temperature == temperature]
        yield f"### {f'T = {temperature:g}' if temperature else 'Greedy'}\n"
        yield from overall(at, lines, over_generate)
        yield from by_category(at)
    for drawn in plots(lines, DOCS / "plots", path.stem):
        kind = drawn.stem.removeprefix(f"{path.stem}-")
        yield f"![{kind}](plots/{drawn.name})\n"


def overall(
    found: Sequence[Figures],
    lines: Sequence[Line],
    over_generate: Mapping[tuple[float, str], Interval | None],
) -> Iterator[str]:
    """A row for each system."""
    times = stages(lines)
    ratios = ["over the target alone", "over `generate`"]
    columns = ["tokens/s", "tokens per pass", "proposed per pass", "drafting", "of the ideal"]
    yield "| " + " | ".join(["system", *ratios, *columns]) + " |"
    yield "|---|" + "---:|" * len([*ratios, *columns])
    for one in found:
        parts = times.get((one.temperature, one.system))
        shares = ["", ""]
        if parts is not None:
            total = sum(parts.values())
            shares = [f"{parts[stage] / total:.0%}" for stage in ("drafting", "target")]
        if one.failures:
            shares[0] = f"failed: {len(one.failures)} errors"
        over = over_generate[one.temperature, one.system]
        cells = [f"`{one.system}`", shown(one.ratio), shown(over), f"{one.rate:.2f}"]
        proposed = "" if one.proposed is None else f"{one.proposed:.1f}"
        cells += [f"{one.tokens_per_forward:.2f}", proposed, *shares]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def by_category(found: Sequence[Figures]) -> Iterator[str]:
    """A row for each category, and a column for each system but the target alone."""
    systems = [one for one in found if one.system not in BASELINE]
    categories = dict.fromkeys(name for one in systems for name in one.categories)
    yield "| category | " + " | ".join(f"`{one.system}`" for one in systems) + " |"
    yield "|---|" + "---:|" * len(systems)
    for name in categories:
        values = [shown(one.categories.get(name)) for one in systems]
        yield f"| {name} | " + " | ".join(values) + " |"
    yield ""


def shown(interval: Interval | None) -> str:
    """A mean with its interval, if there is one."""
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.2f}"
    return f"**{interval.mean:.2f}** ({interval.low:.2f} to {interval.high:.2f})"


def main() -> None:
    sections = [line for path in sorted(RUNS.glob("*.jsonl")) for line in page(path)]
    (DOCS / "benchmarks.md").write_text("\n".join([INTRODUCTION, *sections]) + PUBLISHED)


if __name__ == "__main__":
    main()
