"""The prompts of the benchmarks of generation, and how they are continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PROMPTS = Path(__file__).parent.parent / "data" / "prompts.jsonl"


def chosen(only: str = "") -> list[dict[str, str]]:
    """The prompts as dicts with ``name`` and ``prompt``.

    Args:
        only: names, comma-separated; all prompts if it is empty.

    Raises:
        SystemExit: a name is unknown.
    """
    prompts = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    names = only.split(",") if only else [prompt["name"] for prompt in prompts]
    if unknown := set(names) - {prompt["name"] for prompt in prompts}:
        raise SystemExit(f"--only: no prompt is called {', '.join(sorted(unknown))}")
    return [prompt for prompt in prompts if prompt["name"] in names]


def given(text: str, tokenizer: Any) -> Any:
    """A prompt as a chat if the model has a template for one, and as plain text otherwise."""
    return [{"role": "user", "content": text}] if tokenizer.chat_template else text


def sampling_at(temperature: float) -> dict[str, Any]:
    """Arguments of ``generate`` that override the model's own settings for sampling."""
    if not temperature:
        return {"do_sample": False, "repetition_penalty": 1.0}
    distribution = {"temperature": temperature, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    return {"do_sample": True, **distribution}
