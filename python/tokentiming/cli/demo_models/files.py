"""What a model file should weigh, by its own header: truncation shows before any model runs."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, ClassVar

# What it can raise to read a text as JSON, and its values as what they should be.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


class ModelError(ValueError):
    """A model file that cannot be used, or a model that no source would give."""


def sha256(path: Path, *, advance: Callable[[int], None] | None = None) -> str:
    """Hexadecimal SHA-256 of a file; `advance` hears the number of bytes read so far."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            done += len(block)
            if advance:
                advance(done)
    return digest.hexdigest()


def check_safetensors(path: Path) -> None:
    """Raise ModelError unless the file is exactly as long as its header says."""
    found = path.stat().st_size
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            # A header longer than its file is a truncated file, and not worth the memory.
            header = json.loads(file.read(min(length, found)))
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
            expected = 8 + length + max(ends, default=0)
        except (struct.error, *MALFORMED) as error:
            message = f"{found:,} bytes without one"
            raise _broken(path, "a whole safetensors header", message) from error
    if found != expected:
        raise _broken(path, f"{expected:,} bytes", f"{found:,}")


def check_gguf(path: Path) -> None:
    """Raise ModelError unless the file holds every tensor its header lists."""
    found = path.stat().st_size
    with path.open("rb") as file:
        try:
            expected = _GgufHeader(file, found).end_of_tensors()
        except (struct.error, ArithmeticError, *MALFORMED) as error:
            message = f"{found:,} bytes without one ({error})"
            raise _broken(path, "a whole GGUF header", message) from error
    if found < expected:
        raise _broken(path, f"{expected:,} bytes", f"{found:,}")


def check_folder(folder: Path) -> None:
    """Raise ModelError if the folder is no model's, or one of its weight files is not whole."""
    signs = ("config.json", "tokenizer.json", "tokenizer_config.json")
    if not any((folder / name).exists() for name in signs):
        raise ModelError(
            f"resolve: the folder '{folder}' holds no config.json and no tokenizer; "
            "give the folder that save_pretrained wrote"
        )
    index = folder / "model.safetensors.index.json"
    shards: set[Path] = set()
    if index.exists():
        try:
            names = json.loads(index.read_text("utf-8"))["weight_map"].values()
            shards = {folder / name for name in names}
        except MALFORMED as error:
            raise _broken(index, "a weight_map that names the shards", str(error)) from error
    for shard in sorted(shards):
        if not shard.exists():
            raise _broken(shard, f"the shard that {index.name} names", "no such file")
    for file in sorted(folder.glob("*.safetensors")):
        check_safetensors(file)


def _broken(path: Path, expected: str, found: str) -> ModelError:
    return ModelError(
        f"resolve: '{path}' is not whole: expected {expected}, found {found}; "
        "the file was cut short or changed: remove it and copy or download it again"
    )


class _GgufHeader:
    """Walks a GGUF header without keeping it (version 2 and 3, little-endian).

    Layout: magic, version, number of tensors, number of metadata pairs, the pairs, the tensors'
    names, shapes, types and offsets; from the next multiple of the alignment on, their data.
    """

    _SCALARS: ClassVar = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
    _STRING, _ARRAY = 8, 9

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def end_of_tensors(self) -> int:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        if self._file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version, tensors, pairs = self._read("I"), self._read("Q"), self._read("Q")
        if version not in (2, 3):
            raise ValueError(f"version {version} is unknown")
        alignment = 32
        for _ in range(pairs):
            key = self._string()
            value = self._value(self._read("I"))
            if key == b"general.alignment" and isinstance(value, int):
                alignment = value
        end = 0
        for _ in range(tensors):
            self._string()
            elements = 1
            for _ in range(self._read("I")):
                elements *= self._read("Q")
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(self._read("I"))]
            end = max(end, self._read("Q") + elements // block * block_bytes)
        start = -(-self._file.tell() // alignment) * alignment
        return start + end

    def _read(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self._file.read(struct.calcsize("<" + code)))
        return int(value)

    def _string(self) -> bytes:
        length = self._read("Q")
        if length > self._size:
            raise ValueError("a string runs over its end")
        return self._file.read(length)

    def _skip(self, count: int) -> None:
        if count > self._size or self._file.seek(count, os.SEEK_CUR) > self._size:
            raise ValueError("its metadata run over its end")

    def _value(self, kind: int) -> int | None:
        """Read an integer, step over anything else."""
        if kind == self._STRING:
            self._skip(self._read("Q"))
        elif kind == self._ARRAY:
            kind, count = self._read("I"), self._read("Q")
            if kind in self._SCALARS:
                self._skip(count * struct.calcsize(self._SCALARS[kind]))
            else:
                for _ in range(count):
                    self._value(kind)
        elif self._SCALARS[kind] in "fd":
            self._skip(struct.calcsize(self._SCALARS[kind]))
        else:
            return self._read(self._SCALARS[kind])
        return None
