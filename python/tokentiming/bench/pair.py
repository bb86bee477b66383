"""The two models of a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from tokentiming.bench.prompts import given
from tokentiming.runners import ModelRunner, exact_runner_for
from tokentiming.tokens.prompts import parse

Loaded = tuple[Any, Any]
"""A model and its tokenizer."""


class Pair:
    """A target and a draft, loaded at first use.

    Args:
        load_target: loads the target and its tokenizer.
        load_draft: loads the draft and its tokenizer, anew at each call.
    """

    def __init__(self, load_target: Callable[[], Loaded], load_draft: Callable[[], Loaded]) -> None:
        self._load_target = load_target
        self.load_draft = load_draft

    @cached_property
    def target(self) -> Loaded:
        return self._load_target()

    @cached_property
    def draft(self) -> Loaded:
        return self.load_draft()

    @cached_property
    def runner(self) -> ModelRunner:
        """Runs the target for all our decoders."""
        return exact_runner_for(self.target[0])

    def prompt_ids(self, text: str) -> list[int]:
        """The target's ids of a prompt."""
        tokenizer = self.target[1]
        return parse(given(text, tokenizer), tokenizer)[0].ids
