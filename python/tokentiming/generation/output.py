"""The output of a generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

from tokentiming.engine.stats import Stats


@dataclass(frozen=True)
class Generated:
    """One generated sequence."""

    ids: list[int]
    """The prompt as it was given, and the new ids."""
    new: list[int]
    config: Any
    """The generation config that was used."""
    stats: Stats


@dataclass
class SpeculativeOutput(ModelOutput):
    """What ``generate`` returns. For a batch, ``text`` and ``stats`` are lists.

    A batch is a list of prompts, a tensor ``[B, L]``, or ``num_return_sequences`` above 1. A batch
    of size 1 has lists of length 1.
    """

    sequences: Any = None
    """int64 ``[B, L]``: prompts and new ids, padded on the right."""
    text: Any = None
    """str: the generated part, without special tokens."""
    stats: Any = None
    """``Stats`` of the run."""

    @classmethod
    def of(
        cls, results: Sequence[Generated], tokenizer: Any, device: torch.device, *, batch: bool
    ) -> SpeculativeOutput:
        """The output of a call.

        Args:
            results: at least one, unless ``batch``.
            tokenizer: the target's.
            device: of ``sequences``.
            batch: whether ``text`` and ``stats`` are lists.
        """
        texts = [
            tokenizer.decode(
                result.new, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for result in results
        ]
        stats = [result.stats for result in results]
        rows = [result.ids for result in results]
        sequences = (
            pad(rows, results[0].config, device)
            if rows
            else torch.empty((0, 0), dtype=torch.int64, device=device)
        )
        if batch:
            return cls(sequences=sequences, text=texts, stats=stats)
        return cls(sequences=sequences, text=texts[0], stats=stats[0])

    def to(self, *args: Any, **kwargs: Any) -> SpeculativeOutput:
        """The same output with ``sequences`` moved, as by ``torch.Tensor.to``."""
        moved = self.sequences.to(*args, **kwargs)
        return SpeculativeOutput(sequences=moved, text=self.text, stats=self.stats)


def pad(rows: list[list[int]], config: Any, device: torch.device) -> torch.Tensor:
    """Rows of ids as one tensor ``[B, L]``, padded on the right.

    Args:
        rows: at least one.
        config: the generation config as ``generate`` prepared it. Its pad id is used, or else its
            first end-of-turn id.
        device: of the result.
    """
    padding = config.pad_token_id
    if padding is None:
        eos = 0 if config.eos_token_id is None else config.eos_token_id
        padding = int(torch.as_tensor(eos, device="cpu").flatten()[0])
    longest = max(map(len, rows))
    padded = [row + [padding] * (longest - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=device)
