"""What to generate, and what callbacks receive."""

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
    """Number of leading tokens that had been proposed."""
    index: int = 0
    """Index of the text among those of the call."""


@dataclass(frozen=True)
class Request:
    """How one sequence is to be generated, as transformers prepared it."""

    prompt: Prompt
    processors: LogitsProcessorList
    warpers: LogitsProcessorList
    """The processors that are also applied to the draft's scores."""
    end_reason: Callable[[torch.Tensor], str | None]
    """Why a text, ids ``[1, L]``, ends by a stopping criterion, or None if it does not."""
    criteria_device: torch.device
    """The device of the ids that the stopping criteria read."""
    remaining: int
    """Maximum number of tokens to generate."""
    do_sample: bool
    noise: Noise
    index: int
    """Index of the text among those of the call."""
    config: Any
    """The generation config as ``generate`` prepared it."""
    watch: Callable[[Round], None]
    emitted_only: bool = False
    """Whether a processor keeps state, so that it must be called at emitted positions only."""
