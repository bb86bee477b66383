"""Errors of commands: one line with the argument and the way out."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
from typer.testing import CliRunner

from tokentiming import cli
from tokentiming.cli import commands
from tokentiming.cli import demo_models as models


def ended(*arguments: str, code: int = 2, input: str | bytes | None = None) -> str:
    """The only line of a command's error, without the program's name."""
    found = CliRunner().invoke(cli.app, list(arguments), input=input)
    assert found.exit_code == code, found.output
    assert found.stdout == ""
    (line,) = found.stderr.splitlines()
    start = "tokentiming: "
    assert line.startswith(start)
    return line.removeprefix(start)


@pytest.mark.parametrize(
    ("arguments", "start", "named", "help_"),
    [
        (["--foo"], "", "--foo", ""),
        (["frob"], "", "'frob'", ""),
        (["models", "frob"], "models: ", "'frob'", "models "),
        (["models", "pull"], "models pull: ", "NAMES", "models pull "),
        (["generate"], "generate: ", "PROMPT", "generate "),
        (["generate", "x", "--foo"], "generate: ", "--foo", "generate "),
        (["generate", "x", "--temperature", "-1"], "generate: ", "'--temperature'", "generate "),
        (["generate", "x", "--temperature", "nan"], "generate: ", "'--temperature'", "generate "),
        (["generate", "x", "--temperature", "hot"], "generate: ", "'--temperature'", "generate "),
        (["generate", "x", "--seed", str(2**63)], "generate: ", "'--seed'", "generate "),
        (["generate", "x", "--max-new-tokens", "0"], "generate: ", "'--max-new-tok", "generate "),
        (["generate", "x", "--dtype", "int8"], "generate: ", "'--dtype'", "generate "),
        (["generate", "x", "--dtype", "float8_e4m3fn"], "generate: ", "'--dtype'", "generate "),
        (["generate", "x", "--dtype", "nn"], "generate: ", "'--dtype'", "generate "),
        (["demo", "--dtype", "[/x]"], "demo: ", "'[/x]'", "demo "),
        (["align", "x", "--band", "-1"], "align: ", "'--band'", "align "),
    ],
)
def test_arguments(arguments: list[str], start: str, named: str, help_: str) -> None:
    line = ended(*arguments)
    assert line.startswith(start)
    assert named in line or named.lower() in line
    assert line.endswith(f"; see tokentiming {help_}--help")


@pytest.mark.parametrize("arguments", [[], ["models"]])
def test_no_arguments_show_the_help(arguments: list[str]) -> None:
    found = CliRunner().invoke(cli.app, arguments)
    assert found.exit_code == 2
    assert "Usage" in found.stdout
    assert found.stderr == ""


@pytest.mark.parametrize(("command", "argument"), [("generate", "PROMPT"), ("align", "TEXT")])
class TestText:
    def test_that_is_empty(self, command: str, argument: str) -> None:
        expected = f"{command}: {argument} is empty; give at least one character"
        assert ended(command, "") == expected
        assert ended(command, "-", input="") == expected

    def test_that_is_not_utf8(self, command: str, argument: str) -> None:
        expected = f"{command}: {argument} is not UTF-8 "
        assert ended(command, "-", input=b"ab\xff").startswith(expected)
        for text in ("ab\udcff", "\ud800"):  # a byte as Python passes it, and a lone surrogate
            line = ended(command, text)
            assert line.startswith(expected)
            assert line.endswith("; convert it first, for example with iconv")

    def test_that_cannot_be_read(
        self, monkeypatch: pytest.MonkeyPatch, command: str, argument: str
    ) -> None:
        class Closed:
            def __getattr__(self, name: str) -> Any:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))

        for stdin in (None, Closed()):
            monkeypatch.setattr(commands, "sys", type("System", (), {"stdin": stdin}))
            assert ended(command, "-").startswith(f"{command}: {argument} is -, and standard input")


def test_standard_input_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Decoder:
        target_tokenizer = type("T", (), {"chat_template": None})

        def generate(self, prompt: str, **_: Any) -> Any:
            raise ValueError(f"generate: {prompt!r}")

    monkeypatch.setattr(commands, "_decoder", lambda *_: Decoder())
    assert ended("generate", "-", input="a\r\n你") == r"generate: 'a\r\n你'"


@pytest.mark.parametrize("option", ["--target", "--draft"])
def test_the_option_of_a_model_is_named(tmp_path: Path, option: str) -> None:
    (tmp_path / "tokenizer.json").write_text("3")
    arguments = {"--target": str(tmp_path), "--draft": str(tmp_path), option: "./no\x1bwhere"}
    line = ended("generate", "x", *(part for pair in arguments.items() for part in pair))
    assert line.startswith(r"resolve: './no\x1bwhere' is not a folder")
    assert line.endswith(f"({option})")


@pytest.mark.parametrize("text", ["3", "null", ""])
def test_a_tokenizer_that_cannot_be_loaded(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    line = ended("align", "x", "--draft", str(tmp_path))
    assert line.startswith(
        f"load_tokenizer: transformers cannot load the tokenizer of '{tmp_path}'"
    )


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(models, "pull", fail)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        RuntimeError("sizes\n\n  do not match"),
        TypeError("'int' object is not subscriptable"),
        ValueError("too many values to unpack"),
        RecursionError("maximum recursion depth exceeded"),
        MemoryError(),
        AssertionError("unreachable"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_bug_is_reported_with_a_hint(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    raising(monkeypatch, error)
    line = ended("models", "pull", "x", code=1)
    assert line.startswith(f"{type(error).__name__}: ")
    assert "--traceback" in line
    found = CliRunner().invoke(cli.app, ["--traceback", "models", "pull", "x"])
    assert found.exception is error


def test_a_template_that_rejects_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, jinja2.TemplateError("roles must alternate"))
    line = ended("models", "pull", "x")
    assert "roles must alternate" in line
    assert "--raw" in line


def test_a_file_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, PermissionError(errno.EACCES, "Permission denied", "/a\x1b"))
    assert ended("models", "pull", "x").startswith(r"'/a\x1b' cannot be used: Permission denied; ")


def test_standard_output_on_a_full_disk() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tokentiming.cli", "models", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("tokentiming: standard output cannot be written: No space left")


def test_a_terminal_that_cannot_encode_characters() -> None:
    script = (
        "from tokentiming.cli import commands; commands.app = lambda: print('你'); commands.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.stdout == b"\\u4f60\n", done.stderr
