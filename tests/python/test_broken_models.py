"""Damaged folders and files of a user: one error that names the path."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from tokentiming.cli import demo_models as models
from tokentiming.cli.demo_models import ModelError


@pytest.mark.parametrize(
    "index",
    ["", "3", "null", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000],
)
def test_a_damaged_index_is_named(tmp_path: Path, index: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"^resolve: '.*index.json' is incomplete or damaged"):
        models.resolve(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"3", b"null", b"[]", b'{"a": 3}', b'{"a": {"data_offsets": 3}}',
        b'{"a": {"data_offsets": [0]}}', b'{"a": {"data_offsets": [0, "x"]}}',
        b'{"a": {"data_offsets": [0, null]}}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_safetensors_header_is_named(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(
        ModelError, match=r"^resolve: '.*model.safetensors' is incomplete or damaged"
    ):
        models.resolve(tmp_path)


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    "metadata",
    [
        pair(b"general.alignment", 4, struct.pack("<I", 0)),
        pair(b"x", 8, struct.pack("<Q", 2**64 - 1)),
        pair(b"x", 9, struct.pack("<IQ", 4, 2**64 - 1)),
        pair(b"x", 9, struct.pack("<IQ", 9, 1) * 5000),
    ],
    ids=["alignment", "string", "array", "nested"],
)
def test_a_damaged_gguf_header_is_named(tmp_path: Path, metadata: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + metadata)
    with pytest.raises(ModelError, match=r"^resolve: '.*x.gguf' is incomplete or damaged"):
        models.resolve(path)


@pytest.mark.parametrize("name", ["x" * 300, "/" + "x/" * 3000, "~nobody-of-this-name/x", "a\0b"])
def test_names_that_are_not_paths(name: str) -> None:
    with pytest.raises(ModelError, match=r"^resolve: '"):
        models.resolve(name)


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()

    def refused(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(
        ModelError, match=r"^resolve: '.*' cannot be read: Permission denied: '.*model.safetensors'"
    ):
        models.resolve(tmp_path)


@pytest.mark.parametrize("text", ["", "3", "null", "[]", "{}"])
@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_what_transformers_cannot_load_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    if name == "tokenizer.json":
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match=rf"^load: transformers cannot load the .* '{tmp_path}'"):
        models.load(models.resolve(tmp_path))
