"""Terminal views: safe text, panels that wrap, tables with complete headings."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from tokentiming import Stats, cli
from tokentiming.bench.difference import Difference
from tokentiming.cli import commands, demo
from tokentiming.cli import demo_models as models
from tokentiming.cli.views import console as streams
from tokentiming.cli.views.alignment import Tokenization, alignment
from tokentiming.cli.views.generation import SideBySide, comparison_table, stats_lines
from tokentiming.cli.views.models import PullBars, models_table

CHINESE = "为什么中国长城是世界上最古老的建筑之一，它的历史可以追溯到公元前七世纪，全长两万多公里。"
CONTROLS = [chr(c) for c in (*range(9), *range(11, 32), *range(127, 160))]
REORDERING = [chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)]


def rendered(view: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    file = Terminal()
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    console = Console(file=file, force_terminal=True, color_system="standard", highlight=False)
    monkeypatch.setattr(streams, "output", lambda: console)
    return file


@pytest.fixture
def generates(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the decoder of `generate` by one that emits given tokens."""

    def prepare(*tokens: bytes, accepted: int = 0) -> None:
        def generate(*_: Any, watch: Callable[[Any], None], **__: Any) -> SimpleNamespace:
            watch(SimpleNamespace(tokens=range(len(tokens)), accepted=accepted))
            return SimpleNamespace(stats=Stats("coupled", True, tokens=len(tokens), seconds=1.0))

        decoder = SimpleNamespace(
            target_tokenizer=SimpleNamespace(chat_template=None),
            vocabulary=SimpleNamespace(token_bytes=tokens.__getitem__),
            generate=generate,
        )
        monkeypatch.setattr(commands, "_decoder", lambda *_: decoder)

    return prepare


# --- generated text


@pytest.mark.parametrize(
    "tokens",
    [
        (b"a\tb", b"\n", b"\x1b[31mred\x1b[0m", b"\a\b\v\f\r\0"),
        (b":smile:", b" [bold]x[/bold] [/x]"),
        (b"\xe4\xbd", b"\xa0", b"\xff\xfe", b"\xe4"),
        ("\u202e\u200d\x9b".encode(), b"x" * 500),
    ],
)
def test_a_pipe_gets_the_bytes(generates: Callable[..., None], tokens: tuple[bytes, ...]) -> None:
    generates(*tokens, accepted=1)
    found = CliRunner().invoke(cli.app, ["generate", "x"])
    assert found.exit_code == 0, found.output
    assert found.stdout_bytes == b"".join(tokens)


def test_forced_colours_do_not_reach_a_pipe(
    generates: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    generates(b"a", b"\x1b", accepted=1)
    assert CliRunner().invoke(cli.app, ["generate", "x"]).stdout_bytes == b"a\x1b"


def shown(terminal: Terminal) -> str:
    """The terminal's text without our own colours."""
    return re.sub("\x1b\\[(1;32|0)m", "", terminal.getvalue())


@pytest.mark.parametrize("character", [*CONTROLS, *REORDERING])
def test_control_characters_are_escaped_on_a_terminal(
    generates: Callable[..., None], terminal: Terminal, character: str
) -> None:
    generates(f"a{character}".encode(), b"b", accepted=1)
    CliRunner().invoke(cli.app, ["generate", "x"])
    assert shown(terminal) == "a" + character.encode("unicode_escape").decode() + "b\n"


@pytest.mark.parametrize(
    "text",
    [
        "a\tb\n\tc\n\n",
        ":smile: [bold]x[/bold] [/x]",
        "👩\u200d👧 می\u200cخواهم é\u0301",
        "x " * 300,
    ],
)
def test_a_terminal_gets_unchanged_text(
    generates: Callable[..., None], terminal: Terminal, text: str
) -> None:
    generates(*(bytes([byte]) for byte in text.encode()))
    CliRunner().invoke(cli.app, ["generate", "x"])
    assert shown(terminal) == text + "\n"


def test_a_terminal_shows_incomplete_characters(
    generates: Callable[..., None], terminal: Terminal
) -> None:
    generates(b"a\xff", b"\xe4\xbd")
    CliRunner().invoke(cli.app, ["generate", "x"])
    assert shown(terminal) == "a\\xff\\xe4\\xbd\n"


def test_accepted_text_is_coloured(generates: Callable[..., None], terminal: Terminal) -> None:
    generates(b"a\t", b"b", accepted=1)
    CliRunner().invoke(cli.app, ["generate", "x"])
    assert terminal.getvalue() == "\x1b[1;32ma\t\x1b[0mb\n"


# --- the demo


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("text", [CHINESE, "x" * 200, CHINESE + "x"], ids=["zh", "x", "zh+x"])
def test_panels_wrap_without_loss(width: int, text: str) -> None:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with SideBySide.shown("Chinese", console) as panels:
        for byte in text.encode():
            panels.alone(bytes([byte]))
            panels.speculative(bytes([byte]), byte % 2 == 0)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(cell_len(line) <= width for line in lines)
    for title in ("Chinese: target alone", "with a draft (accepted)"):
        assert f" {title} " in lines[0]
    rows = [re.findall("│ (.*?) │", line) for line in lines[1:]]
    sides = ["".join(cells[i].strip() for cells in rows if len(cells) > i) for i in (0, 1)]
    assert sides == [text, text]


def test_control_characters_are_escaped_in_panels() -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    with SideBySide.shown("code", console) as panels:
        panels.alone(b"\x1b[2J\a:smile:[/x]\xe4")
        panels.speculative("\u202e\x9b".encode(), True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert r"\x1b[2J\x07:smile:[/x]\xe4" in text
    assert r"\u202e\x9b" in text


def comparisons() -> list[demo.Comparison]:
    stages = {"drafting": 0.4, "target": 0.5}
    stats = Stats("coupled", True, tokens=48, seconds=1.0, stage_seconds=stages)
    differences = [None, Difference(12, -0.125), None, None]
    return [
        demo.Comparison(name, 123.45, stats, difference)
        for name, difference in zip(demo.PROMPTS, differences, strict=True)
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_comparison_table_is_complete(width: int) -> None:
    text = rendered(comparison_table("gemma-3-270m", "smollm2-135m", comparisons()), width)
    assert "…" not in text
    assert all(cell_len(line) <= width for line in text.splitlines())
    heads = ["prompt", "alone", "drafted", "ratio", "ids"]
    heads += ["accepted", "per", "forward", "drafting", "target", "rest"]
    for word in (*heads, *demo.PROMPTS, "0.39x", "identical"):
        assert re.search(rf"(?<!\S){re.escape(word)}(?!\S)", text), word
    assert "differ at 12" in text


def test_the_comparison_table_shows_no_rate_where_nothing_was_proposed() -> None:
    rows = comparisons()[:1]
    nothing = rendered(comparison_table("big", "small", rows), 80)
    assert re.search(rf"{rows[0].name} +- +0.00", nothing)
    rows[0].stats.proposed = 4
    assert re.search(rf"{rows[0].name} +0% +0.00", rendered(comparison_table("a", "b", rows), 80))


def test_names_are_not_markup() -> None:
    text = rendered(comparison_table("a[/x]", ":smile:\x1b", comparisons()), 80)
    assert r"a[/x] with :smile:\x1b as its draft" in text


def test_statistics_accept_plain_dicts() -> None:
    stats = Stats("tokentiming", False, tokens=3, seconds=1.0)
    stats.accepted_per_round = {2: 1, 0: 1}  # type: ignore[assignment]
    stats.transfer_cases = {"merge": 1, "within": 3}  # type: ignore[assignment]
    text = rendered(stats_lines(stats), 120)
    assert "0:1 2:1" in text
    assert "within 75%; merge 25%" in text


# --- models and alignments


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_models_table_is_complete(width: int) -> None:
    manifest = {"source": "file: [/x]\x1b.gguf", "path": "/c", "files": {"a": {"size": 9 * 10**9}}}
    text = rendered(models_table([(spec, manifest) for spec in models.known()]), width)
    assert "…" not in text
    for spec in models.known():
        assert f" {spec.short} " in text
    for word in ("parameters", "download", "licence", "cached", "9,000 MB"):
        assert word in text
    assert r"file: [/x]\x1b.gguf" in text


@pytest.mark.parametrize("stage", ["verify", "refused"])
def test_bars_show_any_file_name(capsys: pytest.CaptureFixture[str], stage: str) -> None:
    with PullBars.shown() as bars:
        bars(models.Progress(stage, "[/x]:smile:\x1b.gguf", 1, 2))
    assert r"[/x]:smile:\x1b.gguf" in capsys.readouterr().err


def test_a_pulled_path_is_printed_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/c/:smile:[bold]\udcff"
    monkeypatch.setattr(models, "pull", lambda *_, **__: Path(path))
    found = CliRunner().invoke(cli.app, ["models", "pull", "x"])
    assert found.stdout_bytes == os.fsencode(path) + b"\n"


@pytest.mark.parametrize("width", [30, 60, 200])
def test_an_alignment_is_complete_with_any_name(width: int) -> None:
    draft = Tokenization("[/x]", [b"abcdefghij" * 5, b"\x1b", b"c"])
    target = Tokenization(":smile:\x1b", [b"abcdefghij" * 5 + b"\x1b", b"c"])
    text = rendered(alignment(draft, target, [(0, 2), (2, 3)], band=8, width=width), width)
    assert "…" not in text
    assert "\x1b" not in text
    assert "[/x]" in text
    assert r":smile:\x1b" in text
