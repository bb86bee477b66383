"""The target's scores along a proposal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessorList

from tokentiming.devices import send
from tokentiming.noise import State


class Rows:
    """The target's scores along a proposal, processed when they are asked for.

    Logits processors can cost as much as a row of the forward pass, and after a rejection the later
    rows are not needed. If reading a result synchronizes, all rows together are cheaper still.

    Args:
        logits: of all rows, ``[M + 1, V]``.
        shown: ids to show to the processors, ``[1, L]``, the M proposed ones last.
        states: of all rows.
        processors: of logits.
        synchronizes: whether reading a result waits for a device.
        emitted_only: whether rows may be asked for at emitted positions alone.
    """

    def __init__(
        self,
        logits: torch.Tensor,
        shown: torch.Tensor,
        states: Sequence[State],
        processors: LogitsProcessorList,
        *,
        synchronizes: bool,
        emitted_only: bool = False,
    ) -> None:
        self.synchronizes = synchronizes
        self.emitted_only = emitted_only
        self._logits = logits
        self._shown = shown
        self._states = states
        self._processors = processors

    def scores(self, rows: range) -> torch.Tensor:
        scores = self._logits[rows.start : rows.stop]
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if not self._processors:
            return scores
        committed = self._shown.shape[1] - len(self._logits) + 1
        ids = send(self._shown, scores.device)
        processed = [
            # A copy: processors may write into the scores, as in `generate`.
            self._processors(ids[:, : committed + j], scores[i : i + 1].clone())
            for i, j in enumerate(rows)
        ]
        for row in processed:
            if row.shape != (1, scores.shape[1]):
                raise ValueError(
                    f"generate: the logits processors made scores {list(row.shape)} of "
                    f"{[1, scores.shape[1]]}; rows come to them one at a time"
                )
        return torch.cat(processed)

    def states(self, rows: range) -> torch.Tensor:
        states = torch.tensor(self._states[rows.start : rows.stop], device="cpu")
        return send(states, self._logits.device)
