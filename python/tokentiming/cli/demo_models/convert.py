"""Conversion of a GGUF file to bf16 safetensors: dequantizing takes minutes, loading a second."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tokentiming.cli.demo_models.quiet import silent
from tokentiming.loading.files import ModelError, check_folder
from tokentiming.loading.gguf import load_gguf_model, load_gguf_tokenizer

# Hard cases for tokenizers: runs of spaces, digits, combining marks, scripts without spaces, emoji
# joined by U+200D, a byte-order mark, control characters, text that looks like a special token.
PROBES = (
    "The quick brown fox, 3.14159 and 1  234.\n\n\n  def f(x):\n\t\treturn x   # ok",
    "你好，世界。 Привет! مرحبا e\u0301 \ufb01 \ufeff",
    "😀👩\u200d👩\u200d👧 <|im_end|><eos><bos></s> \x00\x01",
)


def convert(gguf: Path, folder: Path, *, eos: tuple[str, ...] = ()) -> None:
    """Write model, tokenizer and generation config of a GGUF file into a new folder.

    Args:
        gguf: a complete GGUF file of an architecture that transformers can read.
        folder: replaced; afterwards holds bf16 safetensors that `from_pretrained` loads.
        eos: all tokens that end a turn, the tokenizer's own first; by default that of the file.

    Raises:
        ModelError: the file cannot be read, or the folder does not load to the same model.
    """
    import torch

    shutil.rmtree(folder, ignore_errors=True)
    with silent():
        try:
            tokenizer = load_gguf_tokenizer(gguf)
            model = load_gguf_model(gguf, torch.bfloat16)
        except Exception as error:  # unsupported files fail in many ways
            raise ModelError(f"convert: transformers cannot read '{gguf}': {error}") from error
        if eos:
            ids = [tokenizer.convert_tokens_to_ids(token) for token in eos]
            model.generation_config.eos_token_id = ids
        names = {name for name, _ in model.named_parameters()}
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        _check(folder, tokenizer, names)


def _check(folder: Path, tokenizer: Any, names: set[str]) -> None:
    """Raise ModelError unless the folder has all weights in bf16, and the same tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_folder(folder, "convert")
    saved = AutoTokenizer.from_pretrained(folder)
    for text in PROBES:
        if saved(text)["input_ids"] != tokenizer(text)["input_ids"]:
            raise ModelError(f"convert: the tokenizer in '{folder}' encodes {text!r} differently")
    for attribute in ("eos_token_id", "bos_token_id", "pad_token_id", "chat_template"):
        if getattr(saved, attribute) != getattr(tokenizer, attribute):
            raise ModelError(f"convert: the tokenizer in '{folder}' has another {attribute}")
    load: Any = AutoModelForCausalLM.from_pretrained
    model, info = load(folder, dtype=torch.bfloat16, output_loading_info=True)
    wrong = [kind for kind in ("missing", "unexpected", "mismatched") if info[f"{kind}_keys"]]
    dense = all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    if wrong or not dense or {name for name, _ in model.named_parameters()} != names:
        raise ModelError(
            f"convert: the model in '{folder}' is incomplete: "
            f"{', '.join(wrong) or 'other'} weights; update transformers and pull again"
        )
