"""Models in GGUF files: checked for truncation and loaded through transformers, dequantized.

The packages gguf and accelerate, the extra ``tokentiming[gguf]``, are imported only here and only
when a GGUF file is read.
"""

from __future__ import annotations

import json
import os
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from tokentiming.loading.files import MALFORMED, incomplete


def require_gguf_packages(caller: str) -> None:
    """Raise ImportError unless the packages that read GGUF files are installed."""
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{caller}: reading a .gguf file needs {' and '.join(missing)}; "
            'install the extra: pip install "tokentiming[gguf]"'
        )


def check_gguf(path: Path, caller: str) -> None:
    """Check that a GGUF file holds every tensor that its header lists.

    Raises:
        ModelError: the file is truncated or damaged. The message begins with ``caller``.
        ImportError: the extra ``tokentiming[gguf]`` is not installed.
    """
    require_gguf_packages(caller)
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            expected = _GgufHeader(file, size).end_of_tensors()
        except (struct.error, ArithmeticError, *MALFORMED) as error:
            found = f"{size:,} bytes without one ({error})"
            raise incomplete(path, "a complete GGUF header", found, caller) from error
    if size < expected:
        raise incomplete(path, f"{expected:,} bytes", f"{size:,}", caller)


def load_gguf_tokenizer(path: Path) -> Any:
    """The tokenizer of a GGUF file, encoding as the original tokenizer does."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    _restore_tokenizer(tokenizer, path)
    return tokenizer


def load_gguf_model(path: Path, dtype: Any) -> Any:
    """The model of a GGUF file with dense weights of ``dtype``."""
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=dtype,
        quantization_config=GgufConfig(dequantize=True),
    )
    # The weights are dense, but with these marks transformers refuses to save or convert a model.
    model.hf_quantizer = None
    model.is_quantized = False
    vars(model).pop("quantization_method", None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def _restore_tokenizer(tokenizer: Any, path: Path) -> None:
    """Restore, in place, what a byte-level BPE loses in a GGUF file and in transformers' reader.

    - A GGUF file pads the vocabulary to the number of embedding rows with tokens of type UNUSED,
      such as "[PAD151665]" (Qwen). They were never trained and have no text, so they are removed.
    - A GGUF file only names its pre-tokenizer. "smollm" stands for single digits, then GPT-2's
      split; transformers builds only the split, which joins a space to the digit after it.
      "qwen2" includes NFC; transformers omits it here, but applies it in every reloaded copy.
    """
    from gguf import GGUFReader, TokenType
    from tokenizers import Tokenizer

    reader = GGUFReader(path)

    def field(name: str) -> Any:
        found = reader.get_field(f"tokenizer.ggml.{name}")
        return None if found is None else found.contents()

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    types = field("token_type") or []
    unused = [index for index, kind in enumerate(types) if kind == TokenType.UNUSED]
    changed = False
    if state["model"]["type"] == "BPE" and unused:
        tokens = field("tokens")
        for index in unused:
            changed |= state["model"]["vocab"].pop(tokens[index], None) is not None
    if field("pre") == "smollm":
        digits = {"type": "Digits", "individual_digits": True}
        state["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [digits, state["pre_tokenizer"]],
        }
        changed = True
    if field("pre") == "qwen2":
        state["normalizer"] = {"type": "NFC"}
        changed = True
    if changed:
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


class _GgufHeader:
    """Reads through a GGUF header without storing it (versions 2 and 3, little-endian).

    Layout: magic, version, number of tensors, number of metadata pairs, the pairs, the tensors'
    names, shapes, types and offsets; the data begin at the next multiple of the alignment.
    """

    _SCALARS: ClassVar = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
    _STRING, _ARRAY = 8, 9

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def end_of_tensors(self) -> int:
        """The number of bytes that the file must have."""
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
            raise ValueError("a string exceeds the file")
        return self._file.read(length)

    def _skip(self, count: int) -> None:
        if count > self._size or self._file.seek(count, os.SEEK_CUR) > self._size:
            raise ValueError("the metadata exceed the file")

    def _value(self, kind: int) -> int | None:
        """Read an integer; skip a value of any other kind and return None."""
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
