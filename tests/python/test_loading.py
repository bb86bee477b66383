"""`tokentiming.loading`: hub ids, folders and GGUF files, and one clear error for all failures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support import toys
from tests.support.tiny_model import spec, tiny_gguf
from tokentiming import SpeculativeDecoder, loading
from tokentiming.cli import demo_models as models
from tokentiming.cli.demo_models import ModelSpec
from tokentiming.loading import ModelError

__all__ = ["spec", "tiny_gguf"]

TEXT = "a  1\n\n你好 x  3 \x00"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama of one layer in float16, with a byte-level tokenizer."""
    path = tmp_path / "model"
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=300, num_hidden_layers=1, **shape)
    LlamaForCausalLM(config).half().save_pretrained(path)
    toys.byte_level_tokenizer([("a", "b")]).save_pretrained(path)
    return path


# --- folders and hub ids


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", torch.float16), (torch.float32, torch.float32)]
)
def test_a_folder(folder: Path, kind: Any, dtype: Any, expected: torch.dtype) -> None:
    model, tokenizer = loading.load(kind(folder), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert not model.training
    assert tokenizer("ab")["input_ids"] == loading.load_tokenizer(folder)("ab")["input_ids"]


def test_a_revision_needs_a_hub_id(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"^load: revision is 'v1', but '.*' is a local path"):
        loading.load(folder, revision="v1")
    with pytest.raises(ModelError, match=r"^load_tokenizer: revision is 'v1'"):
        loading.load_tokenizer(folder, revision="v1")


def test_a_hub_id_and_its_revision_reach_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def from_pretrained(place: str, **options: Any) -> Any:
        calls.append((place, options))
        return torch.nn.Linear(1, 1)

    for kind in (loading.AutoTokenizer, loading.AutoModelForCausalLM):
        monkeypatch.setattr(kind, "from_pretrained", from_pretrained)
    loading.load("owner/name", dtype=torch.float16)
    loading.load("smollm2-135m", revision="v1")
    assert calls == [
        ("owner/name", {}),
        ("owner/name", {"dtype": torch.float16}),
        ("smollm2-135m", {"revision": "v1"}),
        ("smollm2-135m", {"dtype": "auto", "revision": "v1"}),
    ]


def test_an_unreachable_hub_is_a_value_error_without_demo_names() -> None:
    script = (
        "from tokentiming import SpeculativeDecoder\n"
        "try: SpeculativeDecoder.from_pretrained('nobody/nothing')\n"
        "except ValueError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    expected = r"load: transformers cannot load the tokenizer of 'nobody/nothing': \w+: .*"
    assert re.fullmatch(expected + r"; no folder has this name, .*\n", found.stdout)
    for one in models.known():
        assert one.short not in found.stdout


@pytest.mark.parametrize(
    "place",
    ["", "./nowhere", "/no/where", "a/b/c", "a b", "~/nowhere-at-all", "a\0b", Path("gpt2")],
)
def test_missing_paths_are_named(place: str | Path) -> None:
    words = re.escape(f"load: '{place}' is not a folder, a .gguf file or a hub id; give an ")
    with pytest.raises(ModelError, match=f"^{words}"):
        loading.load(place)


@pytest.mark.parametrize("name", ["x" * 300, "/" + "x/" * 3000])
def test_names_that_are_too_long(name: str) -> None:
    with pytest.raises(ModelError, match=r"^load: 'x*/?.*' cannot be read: File name too long"):
        loading.load(name)


def test_other_files_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelError, match=r"^load: '.*' is not a .gguf file; "):
        loading.load(tmp_path / "model.bin")
    with pytest.raises(ModelError, match=r"^load: no file '.*missing.gguf'; "):
        loading.load(tmp_path / "missing.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"^load: the folder '.*' has no config.json"):
        loading.load(tmp_path / "empty")


def test_a_truncated_file_is_found_before_anything_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (loading.AutoTokenizer, loading.AutoModelForCausalLM):
        monkeypatch.setattr(kind, "from_pretrained", None)
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(ModelError, match=r"^load: '.*model.safetensors' is incomplete or damaged"):
        loading.load(folder)


@pytest.mark.parametrize(
    ("name", "part"), [("tokenizer.json", "tokenizer"), ("config.json", "model")]
)
def test_what_transformers_cannot_load_is_named(folder: Path, name: str, part: str) -> None:
    (folder / name).write_text("{}")
    words = re.escape(f"load: transformers cannot load the {part} of '{folder}': ")
    with pytest.raises(ModelError, match=f"^{words}"):
        loading.load(folder)


# --- GGUF files


def test_a_gguf_file_is_dequantized_to_the_dtype(tiny_gguf: Path) -> None:
    model, _ = loading.load(str(tiny_gguf), dtype=torch.float32)
    weights = dict(model.named_parameters())
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert not model.training
    assert not hasattr(model.config, "quantization_config")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny_gguf).tensors}
    for theirs, ours in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
    ):
        expected = gguf.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        assert torch.equal(weights[ours], torch.from_numpy(expected.copy()))
    assert model.to(torch.bfloat16).dtype == torch.bfloat16, "it converts as any dense model"


def test_a_gguf_file_and_its_conversion_agree(spec: ModelSpec, tiny_gguf: Path) -> None:
    direct, tokenizer = loading.load(tiny_gguf, dtype=torch.bfloat16)
    converted, converted_tokenizer = models.load(tiny_gguf)
    expected = converted.state_dict()
    assert direct.state_dict().keys() == expected.keys()
    for name, weight in direct.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    assert len(tokenizer) == len(converted_tokenizer) == 259, "padding tokens are removed"
    assert tokenizer(TEXT)["input_ids"] == converted_tokenizer(TEXT)["input_ids"]
    spaces = tokenizer("x  3", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(spaces) == ["x", "ĠĠ", "3"]


def test_a_decoder_from_a_gguf_file(tiny_gguf: Path) -> None:
    decoder = SpeculativeDecoder.from_pretrained(tiny_gguf, tiny_gguf, dtype=torch.float32)
    options = {"max_new_tokens": 4, "do_sample": False}
    alone = SpeculativeDecoder.from_pretrained(tiny_gguf, dtype=torch.float32)
    assert decoder.generate("ab", **options).text == alone.generate("ab", **options).text


@pytest.mark.parametrize("suffix", [".gguf", ".GGUF"])
def test_a_truncated_gguf_file_is_found_before_anything_is_loaded(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    for function in ("load_gguf_tokenizer", "load_gguf_model"):
        monkeypatch.setattr(loading, function, None)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(tiny_gguf.read_bytes()[:-64])
    with pytest.raises(
        ModelError, match=r"^load: '.*' is incomplete or damaged: expected .* bytes"
    ):
        loading.load(cut)
    with pytest.raises(ModelError, match=r"^load_tokenizer: '.*' is incomplete or damaged"):
        loading.load_tokenizer(cut)


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_without_the_gguf_extra(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    words = rf'load: reading a .gguf file needs {missing}; .*pip install "tokentiming\[gguf\]"$'
    with pytest.raises(ImportError, match="^" + words):
        loading.load(tiny_gguf)
    with pytest.raises(ImportError, match="^" + words.replace("load", "resolve", 1)):
        models.resolve(tiny_gguf)
