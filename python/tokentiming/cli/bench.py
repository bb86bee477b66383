"""``tokentiming bench``: it reads options; ``tokentiming.bench`` does the work."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokentiming.cli.options import DType, Length, Model, resolved
from tokentiming.cli.views import console

if TYPE_CHECKING:
    import torch

app = typer.Typer(invoke_without_command=True)

Plots = Annotated[Path | None, typer.Option(help="Draw plots as PNG files into this folder.")]


@app.callback()
def bench(
    context: typer.Context,
    target: Model = "qwen2.5-coder-1.5b",
    draft: Model = "smollm2-135m",
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines: Spec-Bench, HumanEval, GSM8K, or plain with prompt, name and "
            "category. By default 13 prompts that come with the package."
        ),
    ] = None,
    only: Annotated[str, typer.Option(help="Names of prompts, comma-separated.")] = "",
    methods: Annotated[str, typer.Option(help="Methods, comma-separated.")] = "coupled",
    drafters: Annotated[
        str, typer.Option(help="Drafters, comma-separated; none for the target alone.")
    ] = "model",
    peers: Annotated[
        str, typer.Option(help="Alternatives of transformers, comma-separated; none for none.")
    ] = "assisted,prompt-lookup",
    temperatures: Annotated[str, typer.Option(help="Comma-separated; 0 is greedy.")] = "0,1",
    length: Length = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; medians count.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts that run together.")] = 1,
    dtype: DType = "bfloat16",
    device: Annotated[str, typer.Option(help="Where all models go.")] = "cpu",
    out: Annotated[
        Path, typer.Option(help="File of runs, as JSON lines; an existing one is continued.")
    ] = Path("bench.jsonl"),
    plots: Plots = None,
) -> None:
    """Compare systems that generate text with the same target, side by side.

    They are the target alone, our methods and drafters, and the alternatives of transformers. They
    take turns at each prompt. An interrupted run goes on with the same command.
    """
    if context.invoked_subcommand is not None:
        return
    from tokentiming.bench import prompts as files
    from tokentiming.bench import records, run
    from tokentiming.bench.pair import Pair
    from tokentiming.bench.plots import require_matplotlib
    from tokentiming.bench.selection import systems, uses_draft
    from tokentiming.cli.views.bench import RunBar

    if plots is not None:
        require_matplotlib()
    place = _device(device)
    chosen = files.read(prompts or files.DEFAULT, _listed(only))
    asked = {"drafters": _listed(drafters), "peers": _listed(peers)}
    load = partial(_load, dtype=dtype, device=device)
    pair = Pair(partial(load, "--target", target), partial(load, "--draft", draft))
    plan = run.Plan(
        systems(pair, methods=_listed(methods), **asked),
        chosen,
        _numbers(temperatures),
        length=length,
        repeats=repeats,
        batch_size=batch_size,
    )
    arguments = {
        "target": target,
        "draft": draft,
        "prompts": f"{len(chosen)}, hash {files.digest(chosen)}",
        "methods": methods,
        "drafters": drafters,
        "peers": peers,
        "temperatures": temperatures,
        "length": length,
        "repeats": repeats,
        "batch_size": batch_size,
        "dtype": dtype,
        "device": device,
    }
    kept = records.Records(out, records.header(arguments, place))
    if remaining := len(plan.remaining(kept)):
        if uses_draft(**asked):
            resolved("--draft", draft)  # so that no download interrupts the progress bar
        pair.target  # noqa: B018
        with RunBar.shown(remaining) as bar:
            run.Bench(plan, pair, kept).run(bar)
    report([out], plots=plots)


@app.command()
def report(
    files: Annotated[list[Path], typer.Argument(help="Files that bench wrote.")],
    over: Annotated[
        str, typer.Option(help="Systems to compare with; the fastest over all prompts counts.")
    ] = "generate,alone",
    plots: Plots = None,
) -> None:
    """Show the tables of finished or interrupted runs again."""
    from tokentiming.bench import records
    from tokentiming.bench.plots import plots as draw
    from tokentiming.bench.report import figures
    from tokentiming.cli.views.bench import tables

    for path in files:
        header, lines = records.load(path)
        systems = _listed(over)
        console.output().print(tables(header, figures(lines, systems), systems))
        if plots is not None:
            for drawn in draw(lines, plots, path.stem):
                console.note(f"wrote {drawn}")


def _device(name: str) -> torch.device:
    """The device of an option, with its index."""
    import torch

    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"bench: --device is {name!r} ({reason}); give a device of torch, such as cpu"
        ) from error


def _load(option: str, model: str, *, dtype: str, device: str) -> Any:
    """Model and tokenizer of an option."""
    import torch

    from tokentiming import loading
    from tokentiming.cli.demo_models.quiet import no_bars

    torch_dtype = dtype if dtype == "auto" else getattr(torch, dtype)
    with no_bars():
        return loading.load(resolved(option, model), dtype=torch_dtype, device=device)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _numbers(temperatures: str) -> list[float]:
    try:
        return list(dict.fromkeys(float(one) for one in _listed(temperatures)))
    except ValueError as error:
        raise ValueError(
            f"bench: --temperatures is {temperatures!r}; give numbers, such as 0,1"
        ) from error
