"""From GGUF to bf16 safetensors, once: dequantising takes minutes, loading the result a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokentiming.cli.demo_models.files import ModelError, check_folder
from tokentiming.cli.demo_models.quiet import silent

# Seams of tokenizers: runs of blanks, digits, marks that combine, scripts without blanks, emoji
# joined by U+200D, a byte-order mark, control characters, text that looks like a special token.
PROBES = (
    "The quick brown fox, 3.14159 and 1  234.\n\n\n  def f(x):\n\t\treturn x   # ok",
    "你好，世界。 Привет! مرحبا e\u0301 \ufb01 \ufeff",
    "😀👩\u200d👩\u200d👧 <|im_end|><eos><bos></s> \x00\x01",
)


def convert(gguf: Path, folder: Path, *, eos: tuple[str, ...] = ()) -> None:
    """Write model, tokenizer and generation config of a GGUF file into a new folder.

    Args:
        gguf: a whole GGUF file of an architecture that transformers can read.
        folder: built anew; holds bf16 safetensors that `from_pretrained` loads.
        eos: all tokens that end a turn, the tokenizer's own first; none keeps what the file says.

    Errors: ModelError if the file cannot be read, or if what was written reads back otherwise.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    shutil.rmtree(folder, ignore_errors=True)
    with silent():
        try:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
        except Exception as error:  # a kind it does not know fails in many ways
            raise ModelError(f"convert: transformers cannot read '{gguf}': {error}") from error
        _restore_tokenizer(tokenizer, gguf)
        if eos:
            ids = [tokenizer.convert_tokens_to_ids(token) for token in eos]
            model.generation_config.eos_token_id = ids
        _clear_quantisation(model)
        names = {name for name, _ in model.named_parameters()}
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        _check(folder, tokenizer, names)


def _clear_quantisation(model: Any) -> None:
    """The weights are plain bf16 by now, but transformers saves no model that bears these marks."""
    model.hf_quantizer = None
    model.is_quantized = False
    vars(model).pop("quantization_method", None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _restore_tokenizer(tokenizer: Any, gguf: Path) -> None:
    """Put right, in place, what a byte-level BPE loses on its way through GGUF and transformers.

    - A GGUF file pads the vocabulary up to the rows of the embedding with tokens of type "unused",
      "[PAD151665]" and the like (Qwen). They were never trained and are no text: out they go.
    - It only names what comes before the merges. "smollm" means each digit apart, then GPT-2's
      split; transformers builds the latter alone, which ties a blank to the digit after it.
      "qwen2" means NFC first; transformers leaves that out, but has it in every reloaded copy.
    """
    from gguf import GGUFReader, TokenType
    from tokenizers import Tokenizer

    reader = GGUFReader(gguf)

    def field(name: str) -> Any:
        found = reader.get_field(f"tokenizer.ggml.{name}")
        return None if found is None else found.contents()

    form = json.loads(tokenizer.backend_tokenizer.to_str())
    types = field("token_type") or []
    unused = [index for index, kind in enumerate(types) if kind == TokenType.UNUSED]
    restored = False
    if form["model"]["type"] == "BPE" and unused:
        tokens = field("tokens")
        for index in unused:
            restored |= form["model"]["vocab"].pop(tokens[index], None) is not None
    if field("pre") == "smollm":
        digits = {"type": "Digits", "individual_digits": True}
        form["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [digits, form["pre_tokenizer"]],
        }
        restored = True
    if field("pre") == "qwen2":
        form["normalizer"] = {"type": "NFC"}
        restored = True
    if restored:
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(form))


def _check(folder: Path, tokenizer: Any, names: set[str]) -> None:
    """Raise ModelError unless the folder loads whole, dense, and with the same tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_folder(folder)
    saved = AutoTokenizer.from_pretrained(folder)
    for text in PROBES:
        if saved(text)["input_ids"] != tokenizer(text)["input_ids"]:
            raise ModelError(f"convert: the tokenizer in '{folder}' encodes {text!r} differently")
    for attribute in ("eos_token_id", "bos_token_id", "pad_token_id", "chat_template"):
        if getattr(saved, attribute) != getattr(tokenizer, attribute):
            raise ModelError(f"convert: the tokenizer in '{folder}' has another {attribute}")
    load: Any = AutoModelForCausalLM.from_pretrained
    model, info = load(folder, dtype=torch.bfloat16, output_loading_info=True)
    troubles = [kind for kind in ("missing", "unexpected", "mismatched") if info[f"{kind}_keys"]]
    dense = all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    if troubles or not dense or {name for name, _ in model.named_parameters()} != names:
        raise ModelError(
            f"convert: the model in '{folder}' does not load whole: {troubles or 'other weights'}"
        )
