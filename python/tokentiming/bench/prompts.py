"""Files of prompts, and how a model continues them."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DEFAULT = Path(__file__).parent / "prompts.jsonl"
"""Twelve prompts of Spec-Bench, one of each category, and one in Chinese."""

_FORMATS = (
    "Spec-Bench (category, turns), HumanEval (task_id, prompt), GSM8K (question, answer) or "
    "plain lines (prompt, and optionally name and category)"
)


@dataclass(frozen=True)
class Prompt:
    name: str
    """Unique in its file."""
    category: str
    text: str


def read(path: Path = DEFAULT, only: Sequence[str] = ()) -> list[Prompt]:
    """The prompts of a file of JSON lines, which may be compressed with gzip.

    The keys of a line tell its format: Spec-Bench, of whose ``turns`` the first is used; HumanEval;
    GSM8K; or plain lines with ``prompt`` and optionally ``name`` and ``category``.

    Args:
        path: of the file.
        only: names of the prompts to keep; all if it is empty.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line has another format, two prompts have one name, or a name in ``only`` is
            unknown.

    Example:
        >>> read(only=["math"])[0].text[:40]
        'The vertices of a triangle are at points'
    """
    data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (EOFError, OSError, UnicodeError) as error:
        raise ValueError(
            f"read: '{path}' is not text ({error}); give a file of JSON lines: {_FORMATS}"
        ) from error
    prompts = [
        _parsed(line, number, path)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    names = {prompt.name for prompt in prompts}
    if not prompts:
        raise ValueError(f"read: '{path}' holds no prompts; give a file of JSON lines: {_FORMATS}")
    if len(names) < len(prompts):
        repeated = sorted(n for n in names if sum(prompt.name == n for prompt in prompts) > 1)
        raise ValueError(
            f"read: '{path}' holds several prompts called {', '.join(repeated)}; "
            "give each prompt a name of its own"
        )
    if unknown := set(only) - names:
        raise ValueError(
            f"read: '{path}' holds no prompt called {', '.join(sorted(unknown))}; "
            f"choose among {', '.join(prompt.name for prompt in prompts)}"
        )
    return [prompt for prompt in prompts if not only or prompt.name in only]


def _parsed(line: str, number: int, path: Path) -> Prompt:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict):
        prompt = _prompt(found, number)
        if prompt is not None and isinstance(prompt.text, str) and prompt.text:
            return prompt
        given = f"has the keys {', '.join(found) or 'of no format'}, or an empty prompt"
    else:
        given = "is not a JSON object"
    raise ValueError(f"read: line {number} of '{path}' {given}; give {_FORMATS}")


def _prompt(line: dict[str, Any], number: int) -> Prompt | None:
    """The prompt of a line, or None if its keys are those of no format."""
    match line:
        case {"category": category, "turns": [text, *_]}:
            return Prompt(f"{category}-{line.get('question_id', number)}", str(category), text)
        case {"task_id": name, "prompt": text}:
            return Prompt(str(name), "humaneval", text)
        case {"question": text, "answer": _}:
            return Prompt(f"gsm8k-{number}", "gsm8k", text)
        case {"prompt": text}:
            name = line.get("name", f"prompt-{number}")
            return Prompt(str(name), str(line.get("category", "all")), text)
    return None


def digest(prompts: Sequence[Prompt]) -> str:
    """A hash of the prompts, which tells files of the same name apart."""
    plain = json.dumps([asdict(prompt) for prompt in prompts])
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def given(text: str, tokenizer: Any) -> Any:
    """A prompt as a chat if the model has a template for one, and as plain text otherwise."""
    return [{"role": "user", "content": text}] if tokenizer.chat_template else text


def sampling_at(temperature: float) -> dict[str, Any]:
    """Arguments of ``generate`` that override the model's own settings for sampling.

    Raises:
        ValueError: the temperature is negative or not finite.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(
            f"sampling_at: temperature is {temperature}; give a finite number from 0, which is "
            "greedy decoding"
        )
    if not temperature:
        return {"do_sample": False, "repetition_penalty": 1.0}
    distribution = {"temperature": temperature, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    return {"do_sample": True, **distribution}
