"""Files of prompts: each format, and what is refused."""

from __future__ import annotations

import doctest
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tokentiming.bench import prompts as prompts_module
from tokentiming.bench.prompts import Prompt, digest, read, sampling_at

SPEC_BENCH = {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}
HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def f():\n",
    "entry_point": "f",
    "canonical_solution": "    pass\n",
    "test": "f()",
}
GSM8K = {"question": "How many?", "answer": "1 + 1 = 2\n#### 2"}
PLAIN = {"prompt": "Say hello."}


def written(folder: Path, *lines: Any, compress: bool = False) -> Path:
    path = folder / "prompts.jsonl"
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        (SPEC_BENCH, Prompt("writing-81", "writing", "Write.")),
        (HUMAN_EVAL, Prompt("HumanEval/0", "humaneval", "def f():\n")),
        (GSM8K, Prompt("gsm8k-1", "gsm8k", "How many?")),
        (PLAIN, Prompt("prompt-1", "all", "Say hello.")),
        (PLAIN | {"name": "a", "category": "b"}, Prompt("a", "b", "Say hello.")),
    ],
)
def test_each_format(tmp_path: Path, line: Any, prompt: Prompt, compress: bool) -> None:
    assert read(written(tmp_path, line, compress=compress)) == [prompt]


def test_blank_lines_and_other_separators_of_unicode(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a\u2028b"}\n\n{"prompt": "c"}', "utf-8")
    assert [prompt.text for prompt in read(path)] == ["a\u2028b", "c"]


def test_the_default_prompts() -> None:
    assert doctest.testmod(prompts_module) == (0, 1)
    prompts = read()
    assert len(prompts) == 13
    assert [prompt.name for prompt in read(only=["chinese", "math"])] == ["math", "chinese"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no prompts; give a file of JSON lines"),
        ([{"text": "x"}], "line 1 of .* has the keys text, .*; give Spec-Bench"),
        ([PLAIN, {"prompt": ""}], "line 2 of .* an empty prompt; give"),
        ([PLAIN, {"prompt": 3}], "line 2 of .* has the keys prompt"),
        ([{"category": "a", "turns": []}], "line 1 of .* has the keys category, turns"),
        (["text"], "line 1 of .* is not a JSON object"),
        ([SPEC_BENCH, SPEC_BENCH], "several prompts called writing-81; give each"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^read: .*{message}"):
        read(written(tmp_path, *lines))


@pytest.mark.parametrize("data", [b"\xff\xfe", b"\x1f\x8b\x08cut short"])
def test_what_is_no_text(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "prompts.jsonl").write_bytes(data)
    with pytest.raises(ValueError, match=r"^read: .* is not text .*; give a file of JSON lines"):
        read(tmp_path / "prompts.jsonl")


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no prompt called b; choose among prompt-1$"):
        read(written(tmp_path, PLAIN), only=["b"])


def test_the_digest_tells_prompts_apart() -> None:
    assert digest(read()) == digest(read())
    assert digest(read()) != digest(read(only=["math"]))


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_temperatures(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"^sampling_at: temperature is .*; give a finite number"):
        sampling_at(temperature)
