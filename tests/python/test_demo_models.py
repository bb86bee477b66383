"""Demo models are downloaded, joined and converted; names and paths are resolved."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file

from tests.support.tiny_model import (
    cache_of,
    downloads,
    quick,
    quick_convert,
    spec,
    tiny_gguf,
)
from tokentiming.cli import demo_models as models
from tokentiming.cli.demo_models import ModelError, ModelSpec, sources

__all__ = ["downloads", "quick", "spec", "tiny_gguf"]


# --- pull


def test_a_pulled_model_loads(
    spec: ModelSpec, downloads: list[str], capfd: pytest.CaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reported: list[models.Progress] = []
    folder = models.pull(spec, progress=reported.append)
    assert folder == cache_of(spec)
    assert not folder.with_name("Tiny.partial").exists()
    assert downloads == ["tiny-part1", "tiny-part2"]
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
    arrived = [step.done for step in reported if step.stage == "wheels"]
    assert arrived == sorted(arrived)
    assert arrived[-1] == spec.gguf_size

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not hasattr(model.config, "quantization_config")
    assert model.generation_config.eos_token_id == [258, 257]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 259, "tokens that pad the embedding are removed"
    text = "a  1\n\n你好 \x00"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    blanks = tokenizer("x  3", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(blanks) == ["x", "ĠĠ", "3"]


def test_weights_are_those_of_the_gguf(spec: ModelSpec, tiny_gguf: Path) -> None:
    saved = load_file(models.pull(spec) / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny_gguf).tensors}
    for theirs, ours in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
    ):
        expected = gguf.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        assert torch.equal(saved[ours], torch.from_numpy(expected.copy()).bfloat16())


@pytest.mark.usefixtures("quick")
def test_a_cached_model_needs_no_source(spec: ModelSpec, downloads: list[str]) -> None:
    models.pull(spec)
    downloads.clear()
    models.pull(spec, verify=True)
    assert downloads == []
    found = models.cached(spec)
    assert found is not None
    assert found["path"] == cache_of(spec)
    assert found["source"] == "wheels: tiny-part1==1.0 ..."


def test_the_hub_comes_first(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def hub(spec: ModelSpec, folder: Path, report: object) -> None:
        quick_convert(folder, folder)

    monkeypatch.setattr(sources, "from_hub", hub)
    models.pull(spec)
    found = models.cached(spec)
    assert found is not None
    assert found["source"] == "hub: nobody/tiny"


@pytest.mark.usefixtures("quick")
def test_the_error_of_the_hub_is_reported(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def gated(spec: ModelSpec, folder: Path, report: object) -> None:
        raise PermissionError("401: gated\nlong explanation")

    monkeypatch.setattr(sources, "from_hub", gated)
    reported: list[models.Progress] = []
    models.pull(spec, progress=reported.append)
    (note,) = [step.detail for step in reported if step.stage == "note"]
    assert note == (
        "nobody/tiny is not reachable (PermissionError: 401: gated); "
        "downloading 4-bit GGUF weights from the package index instead"
    )


# --- resolve


def test_resolve_known_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "pull", lambda spec, progress=None: Path(spec.name))
    for name in ("smollm2-135m", "SmolLM2-135M-Instruct", "smollm2-135m-INSTRUCT"):
        assert models.resolve(name) == Path("SmolLM2-135M-Instruct")
    assert models.resolve("qwen2.5-coder-1.5b") == Path("Qwen2.5-Coder-1.5B-Instruct")


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen2.5-Coder-1.5B-Instruct", "a/b.c_d-e"])
def test_resolve_returns_hub_ids_unchanged(name: str) -> None:
    assert models.resolve(name) == name


@pytest.mark.parametrize("name", ["", "./nowhere", "/no/where", "a/b/c", "a b", "~/nowhere-at-all"])
def test_resolve_rejects_anything_else(name: str) -> None:
    with pytest.raises(ModelError, match=r"^resolve: .*known names: smollm2-135m"):
        models.resolve(name)


def test_resolve_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^resolve: no file 'nothing.gguf'"):
        models.resolve("nothing.gguf")
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelError, match=r"is not a .gguf file"):
        models.resolve(tmp_path / "model.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config.json"):
        models.resolve(tmp_path / "empty")


def test_resolve_converts_a_gguf_once(
    spec: ModelSpec, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    folder = models.resolve(tiny_gguf)
    assert isinstance(folder, Path)
    assert folder.name == f"gguf-{spec.gguf_sha256}"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == 258
    monkeypatch.setattr(models, "convert", None)
    assert models.resolve(str(tiny_gguf)) == folder
    assert tiny_gguf.exists(), "the user's file is kept"


def test_the_registry_is_consistent() -> None:
    names = [name for one in models.known() for name in {one.short, one.name.lower()}]
    assert len(names) == len(set(names))
    for one in models.known():
        assert len(one.gguf_sha256) == 64
        members = [wheel.member for wheel in one.wheels]
        assert len(set(members)) == len(members)
        assert members == sorted(members, key=lambda m: [int(n) for n in _numbers(m)])


def _numbers(text: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in text).split()
