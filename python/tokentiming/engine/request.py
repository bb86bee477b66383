"""What to generate, and what is reported on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessorList

from tokentiming.noise import Noise
from tokentiming.tokens.prompts import Prompt


@dataclass(frozen=True)
class Round:
    """What one round committed, for callbacks."""

    tokens: list[int]
    """Emitted target ids."""
    accepted: int
    """How many of them, from the first on, had been proposed."""
    index: int = 0
    """Index of the text among those of the call."""


@dataclass(frozen=True)
class Request:
    """How one sequence is to be generated, as transformers prepared it."""

    prompt: Prompt
    processors: LogitsProcessorList
    warpers: LogitsProcessorList
    """Those of the processors that the draft's scores go through as well."""
    end_reason: Callable[[torch.Tensor], str | None]
    """Why a text, ids ``[1, L]``, ends by a stopping criterion, or None if it does not."""
    criteria_device: torch.device
    """The device of the ids that the stopping criteria read."""
    remaining: int
    """Most tokens to generate."""
    do_sample: bool
    noise: Noise
    index: int
    """Index of the text among those of the call."""
    config: Any
    """The generation config as ``generate`` prepared it."""
    watch: Callable[[Round], None]
    emitted_only: bool = False
    """Whether a processor remembers its calls, so that it must see emitted positions alone."""
