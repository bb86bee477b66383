"""Loading of models and tokenizers: from the hub, a folder, or a GGUF file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from tokentiming.loading.files import ModelError, as_model_error, check_folder
from tokentiming.loading.gguf import check_gguf, load_gguf_model, load_gguf_tokenizer
from tokentiming.scalars import type_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["ModelError", "load", "load_tokenizer", "locate"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def load(
    place: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str = "cpu",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer for inference.

    Args:
        place: a hub id, a folder that ``save_pretrained`` wrote, or a ``.gguf`` file. An existing
            folder takes precedence over a hub id. A GGUF file is dequantized at every call.
        revision: branch, tag or commit of a hub id; by default its main branch.
        dtype: of the weights, as ``from_pretrained`` takes it; "auto" is that of the checkpoint.
        device: where the model goes.

    Returns:
        The model, in eval mode, and its tokenizer.

    Raises:
        TypeError: ``place`` is not a string or a path.
        ModelError: a ValueError; nothing can be loaded from ``place``, or a file is truncated,
            which is detected before any weight is read.
        ImportError: ``place`` is a GGUF file, and the extra ``tokentiming[gguf]`` is missing.

    Example:
        >>> from tokentiming import loading
        >>> model, tokenizer = loading.load("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> len(tokenizer)
        49152
    """
    located = locate(place, caller="load")
    tokenizer = _tokenizer(located, revision, "load")
    with _as_load_error(located, "model", "load"):
        if _is_gguf(located):
            model = load_gguf_model(Path(located), dtype)
        else:
            options = _hub_options(revision)
            model = AutoModelForCausalLM.from_pretrained(located, dtype=dtype, **options)
    return model.to(device).eval(), tokenizer


def load_tokenizer(
    place: str | os.PathLike[str], *, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer alone; arguments and errors are those of `load`."""
    return _tokenizer(locate(place, caller="load_tokenizer"), revision, "load_tokenizer")


def locate(
    place: Any,
    *,
    caller: str,
    argument: str = "place",
    way_out: str = "give an existing path, or a hub id such as 'owner/name'",
) -> Path | str:
    """Find out what ``place`` is, and check its files for truncation.

    Args:
        place: as in `load`.
        caller: the function that messages begin with.
        argument: its argument, for messages.
        way_out: what the message proposes if ``place`` is nothing that can be loaded.

    Returns:
        The path of a folder or of a ``.gguf`` file, or a hub id as a string.

    Raises:
        TypeError: ``place`` is not a string or a path.
        ModelError, ImportError: as in `load`.
    """
    if not isinstance(place, str | os.PathLike):
        found = "None" if place is None else type_of(place)
        raise TypeError(
            f"{caller}: {argument} is {found}; give a hub id, a folder or a .gguf file, or hand "
            "loaded models to SpeculativeDecoder"
        )
    text = os.fspath(place)
    unreadable = f"{caller}: '{text}' cannot be read"
    with as_model_error(unreadable, "give a file or folder that can be read"):
        path = Path(os.path.expanduser(text))
        if text and path.is_dir():
            check_folder(path, caller)
            return path
        if _is_gguf(path):
            if not path.is_file():
                raise ModelError(f"{caller}: no file '{path}'; give the path of a GGUF file")
            check_gguf(path, caller)
            return path
        if path.is_file():
            raise ModelError(
                f"{caller}: '{path}' is not a .gguf file; give one, or the folder of a model"
            )
    if isinstance(place, str) and _HUB_ID.fullmatch(text):
        return text
    raise ModelError(f"{caller}: '{text}' is not a folder, a .gguf file or a hub id; {way_out}")


def _tokenizer(located: Path | str, revision: str | None, caller: str) -> PreTrainedTokenizerBase:
    if revision is not None and isinstance(located, Path):
        raise ModelError(
            f"{caller}: revision is '{revision}', but '{located}' is a local path; "
            "give a revision only with a hub id"
        )
    with _as_load_error(located, "tokenizer", caller):
        if _is_gguf(located):
            tokenizer = load_gguf_tokenizer(Path(located))
        else:
            tokenizer = AutoTokenizer.from_pretrained(located, **_hub_options(revision))
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def _is_gguf(located: Path | str) -> bool:
    return isinstance(located, Path) and located.suffix.lower() == ".gguf"


def _hub_options(revision: str | None) -> dict[str, Any]:
    return {} if revision is None else {"revision": revision}


@contextmanager
def _as_load_error(located: Path | str, part: str, caller: str) -> Iterator[None]:
    """Turn any error of transformers into a ModelError that names what was loaded."""
    try:
        yield
    except Exception as error:  # damaged files and unreachable hubs fail in many ways
        reason = " ".join(str(error).split()) or "no reason given"
        way_out = "give the folder that save_pretrained wrote, or an intact .gguf file"
        if isinstance(located, str):
            way_out = "no folder has this name, so it was taken for a hub id: check its spelling, "
            way_out += "the network and your access to it"
        raise ModelError(
            f"{caller}: transformers cannot load the {part} of '{located}': "
            f"{type(error).__name__}: {reason}; {way_out}"
        ) from error
