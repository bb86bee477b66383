"""The file of a benchmark: a header, and a line for each run, written as it ends."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

_FORMAT = "tokentiming bench 1"
_PACKAGES = ("tokentiming", "torch", "transformers", "tokenizers", "numpy")

Line = dict[str, Any]


class Key(NamedTuple):
    """What a run is known by; a file holds each run once."""

    temperature: float
    repeat: int
    system: str
    prompts: tuple[str, ...]
    """Names of the prompts that ran together."""

    @classmethod
    def of(cls, line: Line) -> Key:
        return cls(line["temperature"], line["repeat"], line["system"], tuple(line["prompts"]))


def header(arguments: dict[str, Any], device: torch.device) -> Line:
    """The first line of a file: arguments, versions and processor."""
    versions = {package: version(package) for package in _PACKAGES}
    return {
        "format": _FORMAT,
        "arguments": arguments,
        "versions": {"python": platform.python_version(), **versions},
        "processor": _processor(device),
        "threads": torch.get_num_threads(),
    }


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class Records:
    """The runs of a benchmark, kept in a file.

    An existing file is continued. A last line that an interruption cut short is removed.

    Args:
        path: of the file, which is created if it does not exist.
        header: what ``header`` returned; that of an existing file must equal it.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: it is not a file of this program, or its header differs.
    """

    def __init__(self, path: Path, header: Line) -> None:
        self._path = path
        self._runs: dict[Key, Line] = {}
        data = path.read_bytes() if path.exists() else b""
        first = _dumped(header)
        if first.startswith(data):  # a new file, or one cut short inside its header
            path.write_bytes(first)
            return
        found, lines = _parsed(data, path)
        if differing := _differing(found, header):
            raise ValueError(
                f"Records: '{path}' was written with another {'; '.join(differing)}; "
                "give another file, or the same arguments"
            )
        os.truncate(path, data.rindex(b"\n") + 1)
        self._runs = {Key.of(line): line for line in lines}

    def __contains__(self, key: Key) -> bool:
        return key in self._runs

    def __getitem__(self, key: Key) -> Line:
        return self._runs[key]

    @property
    def lines(self) -> list[Line]:
        """All runs, in the order of the file."""
        return list(self._runs.values())

    def append(self, line: Line) -> None:
        """Write a run to the file; it survives a kill of this process."""
        self._runs[Key.of(line)] = line
        with self._path.open("ab") as file:
            file.write(_dumped(line))


def load(path: Path) -> tuple[Line, list[Line]]:
    """Header and runs of a file, without a last line that is cut short.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a file of this program, or a line is damaged.
    """
    return _parsed(path.read_bytes(), path)


def _parsed(data: bytes, path: Path) -> tuple[Line, list[Line]]:
    lines: list[Line] = []
    for number, text in enumerate(data.split(b"\n")[:-1], 1):
        try:
            line = json.loads(text)
            valid = line["format"] == _FORMAT if number == 1 else bool(Key.of(line))
        except (ValueError, KeyError, TypeError):
            valid = False
        if not valid and number > 1:
            raise ValueError(f"load: line {number} of '{path}' is damaged; remove it")
        if not valid:
            break
        lines.append(line)
    if not lines:
        raise ValueError(f"load: '{path}' was not written by tokentiming bench; give another file")
    return lines[0], lines[1:]


def _dumped(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _differing(found: Line, expected: Line) -> list[str]:
    """What differs between two headers, with both values."""
    left, right = _flat(found), _flat(expected)
    return [
        f"{name} ({left.get(name)}, not {right.get(name)})"
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
    ]


def _flat(header: Line) -> Line:
    """The header without nesting; values as JSON would return them."""
    plain = json.loads(_dumped(header))
    inner: Sequence[str] = ("arguments", "versions")
    outer = {name: value for name, value in plain.items() if name not in inner}
    return outer | {name: value for part in inner for name, value in plain[part].items()}
