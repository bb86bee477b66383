"""What a generation returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput


@dataclass
class SpeculativeOutput(ModelOutput):
    """What ``generate`` returns. Of one prompt ``text`` and ``stats`` are single, else lists."""

    sequences: Any = None
    """int64 ``[B, L]``: prompts and new ids, padded on the right."""
    text: Any = None
    """str: the generated part, special tokens left out."""
    stats: Any = None
    """``Stats`` of the run."""


def pad(rows: list[list[int]], model: PreTrainedModel) -> torch.Tensor:
    """Rows of ids as one tensor ``[B, L]``, padded on the right with the model's pad id."""
    config = model.generation_config
    eos = config.eos_token_id
    padding = config.pad_token_id
    if padding is None:
        padding = eos if isinstance(eos, int) else (eos or [0])[0]
    longest = max(map(len, rows))
    padded = [row + [padding] * (longest - len(row)) for row in rows]
    return torch.tensor(padded, device=model.device)
