"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tokentiming.cli import demo_models as models
from tokentiming.cli.views.models import PullBars

Model = Annotated[
    str, typer.Option(help="A name of `models list`, a folder, a .gguf file or a hub id.")
]
Length = Annotated[int, typer.Option(min=1, help="Maximum number of new tokens.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 is greedy decoding.")]
Method = Annotated[str, typer.Option(help="coupled, pushforward, slem, slrs, tli or tokentiming.")]
DType = Annotated[
    Literal["bfloat16", "float32", "float16", "auto"], typer.Option(help="Dtype of the weights.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random stream.")]


def resolved(option: str, model: str) -> Path | str:
    """The folder or hub id of an option's model, which is pulled first if necessary."""
    try:
        with PullBars.shown() as bars:
            return models.resolve(model, progress=bars)
    except (models.ModelError, ImportError) as error:
        raise type(error)(f"{error} ({option})") from error


def label(model: str) -> str:
    """The last part of a path or a hub id."""
    return model.rstrip("/").rsplit("/", 1)[-1]
