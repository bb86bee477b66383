"""The output of a generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

from tokentiming.engine.text import Text


@dataclass
class SpeculativeOutput(ModelOutput):
    """What ``generate`` returns. For a batch, ``text`` and ``stats`` are lists.

    A batch is a list of prompts, a tensor ``[B, L]``, or ``num_return_sequences`` above 1. A batch
    of size 1 has lists of length 1.

    The ``partial`` of an error or interruption has the same lists, with what was generated of each
    text. A text has ended if the ``finish_reason`` of its ``Stats`` is not None. The ``text`` of
    another leaves out the bytes of an incomplete last character; ``sequences`` has all its ids.
    """

    sequences: Any = None
    """int64 ``[B, L]``: prompts and new ids, padded on the right."""
    text: Any = None
    """str: the generated part, without special tokens."""
    stats: Any = None
    """``Stats`` of the run."""

    @classmethod
    def of(
        cls, texts: Sequence[Text], tokenizer: Any, device: torch.device, *, batch: bool
    ) -> SpeculativeOutput:
        """The output of a call.

        Args:
            texts: at least one.
            tokenizer: the target's.
            device: of ``sequences``.
            batch: whether ``text`` and ``stats`` are lists.
        """
        strings = [_decoded(text, tokenizer) for text in texts]
        stats = [text.stats for text in texts]
        rows = [[*text.request.prompt.padded, *text.new] for text in texts]
        sequences = pad(rows, texts[0].request.config, device)
        if batch:
            return cls(sequences=sequences, text=strings, stats=stats)
        return cls(sequences=sequences, text=strings[0], stats=stats[0])

    def to(self, *args: Any, **kwargs: Any) -> SpeculativeOutput:
        """The same output with ``sequences`` moved, as by ``torch.Tensor.to``."""
        moved = self.sequences.to(*args, **kwargs)
        return SpeculativeOutput(sequences=moved, text=self.text, stats=self.stats)


def _decoded(text: Text, tokenizer: Any) -> str:
    """The generated part; of an unfinished text without the bytes of an incomplete character."""
    string: str = tokenizer.decode(
        text.new, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return string if text.finished else string.rstrip("\N{REPLACEMENT CHARACTER}")


@contextmanager
def partial_on_error(output: Callable[[], SpeculativeOutput]) -> Iterator[None]:
    """Give an error an attribute ``partial``, the output so far."""
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # some exceptions do not accept attributes
            error.partial = output()  # type: ignore[attr-defined]
        raise


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
