"""The file of a benchmark: what an interrupted run leaves is continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tokentiming.bench.records import Key, Line, Records, header, load

HEADER = header({"target": "a", "length": 8, "temperatures": "0,1"}, torch.device("cpu"))


def line(system: str, repeat: int = 0) -> Line:
    return {"temperature": 0.0, "repeat": repeat, "system": system, "prompts": ["ä"], "seconds": 1}


LINES = [line("generate"), line("alone"), line("alone", 1)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "runs.jsonl"
    records = Records(path, HEADER)
    for one in LINES:
        records.append(one)
    return path


def test_lines_are_written_as_they_come(path: Path) -> None:
    found = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    assert found == [HEADER, *LINES]
    assert load(path) == (HEADER, LINES)


def test_a_file_is_continued(path: Path) -> None:
    records = Records(path, HEADER)
    assert records.lines == LINES
    assert Key(0.0, 1, "alone", ("ä",)) in records
    assert Key(0.0, 2, "alone", ("ä",)) not in records
    records.append(line("alone", 2))
    assert load(path)[1] == [*LINES, line("alone", 2)]


def test_a_file_cut_short_anywhere_is_continued(path: Path) -> None:
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        whole = max(data[:size].count(b"\n") - 1, 0)
        records = Records(path, HEADER)
        assert records.lines == LINES[:whole]
        for one in LINES[whole:]:
            records.append(one)
        assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 9}, r"another length \(8, not 9\); give another file, or the same"),
        ({"target": "b", "length": 9}, r"target \(a, not b\); length \(8, not 9\)"),
        ({"draft": "c"}, r"draft \(None, not c\)"),
    ],
)
def test_another_header_is_refused_by_name(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"^Records: .* was written with .*{message}"):
        Records(path, HEADER | {"arguments": HEADER["arguments"] | changes})
    assert path.read_bytes() == before


def test_another_version_is_refused_by_name(path: Path) -> None:
    other = HEADER | {"versions": HEADER["versions"] | {"torch": "0.1"}}
    with pytest.raises(ValueError, match=r"another torch \(.*, not 0\.1\)"):
        Records(path, other)


@pytest.mark.parametrize("text", ["no JSON\n", "{}\n", "[1]\n", '{"format": "other"}\n', "prose"])
def test_another_file_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes"
    path.write_text(text)
    with pytest.raises(ValueError, match="was not written by tokentiming bench; give another file"):
        Records(path, HEADER)
    assert path.read_text() == text


@pytest.mark.parametrize("damage", ["{", "[]", '{"system": "alone"}'])
def test_a_damaged_line_is_named(path: Path, damage: str) -> None:
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], damage, *lines[2:]]) + "\n", "utf-8")
    with pytest.raises(ValueError, match=r"line 3 of .* is damaged; remove it"):
        Records(path, HEADER)
