"""Checks of model files by their headers, which detect truncation before a model runs."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What parsing JSON and reading its values as the expected types can raise.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)

_ERRNO_IN_TEXT = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")


class ModelError(ValueError):
    """A model that cannot be found, read or loaded."""


@contextmanager
def as_model_error(what: str, way_out: str) -> Iterator[None]:
    """Turn errors of the operating system into a ModelError: ``what``, the reason, ``way_out``."""
    try:
        yield
    except (ModelError, ConnectionError):  # ConnectionError: a pipe or the network, not a file
        raise
    except Exception as error:
        number = error_number(error)
        if number is None:
            raise
        reason = os.strerror(number)
        if number == errno.EEXIST:  # mkdir found a file where it needs a folder
            reason = os.strerror(errno.ENOTDIR)
        name = getattr(error, "filename", None)
        where = f": '{os.fsdecode(name)}'" if isinstance(name, (str, bytes, os.PathLike)) else ""
        raise ModelError(f"{what}: {reason}{where}; {way_out}") from error


def error_number(error: object) -> int | None:
    """The errno of an error, or None; libraries in Rust, and pip, have it only in their text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _ERRNO_IN_TEXT.search(str(error))
    return int(found[1] or found[2]) if found else None


def check_folder(folder: Path, caller: str) -> None:
    """Check that a folder holds a model or a tokenizer, and all of its weight files.

    Raises:
        ModelError: it does not, or a file is truncated. The message begins with ``caller``.
    """
    signs = ("config.json", "tokenizer.json", "tokenizer_config.json")
    if not any((folder / name).exists() for name in signs):
        raise ModelError(
            f"{caller}: the folder '{folder}' has no config.json and no tokenizer; "
            "give the folder that save_pretrained wrote"
        )
    index = folder / "model.safetensors.index.json"
    shards: set[Path] = set()
    if index.exists():
        try:
            names = json.loads(index.read_text("utf-8"))["weight_map"].values()
            shards = {folder / name for name in names}
        except MALFORMED as error:
            expected = "a weight_map that names the shards"
            raise incomplete(index, expected, str(error), caller) from error
    for shard in sorted(shards):
        if not shard.exists():
            raise incomplete(shard, f"the shard that {index.name} names", "no such file", caller)
    for file in sorted(folder.glob("*.safetensors")):
        _check_safetensors(file, caller)


def _check_safetensors(path: Path, caller: str) -> None:
    """Raise ModelError unless the file is exactly as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            # A damaged length may exceed the file: read no more than the file has.
            header = json.loads(file.read(min(length, size)))
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
            expected = 8 + length + max(ends, default=0)
        except (struct.error, *MALFORMED) as error:
            found = f"{size:,} bytes without one"
            raise incomplete(path, "a complete safetensors header", found, caller) from error
    if size != expected:
        raise incomplete(path, f"{expected:,} bytes", f"{size:,}", caller)


def incomplete(path: Path, expected: str, found: str, caller: str) -> ModelError:
    """The error for a file that is truncated or damaged."""
    return ModelError(
        f"{caller}: '{path}' is incomplete or damaged: expected {expected}, found {found}; "
        "copy or download the file again"
    )
