"""The target's scores after a text and after each node of a proposal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessorList

from tokentiming.devices import send
from tokentiming.methods import Proposal
from tokentiming.noise import Place
from tokentiming.scalars import type_of


class Rows:
    """The target's scores for one text, processed on demand.

    Args:
        logits: ``[1 + N, V]``, after the text and after each node.
        proposal: of N nodes.
        shown: ids of the text to show to the processors, ``[1, L]``.
        places: where the token of each row is drawn.
        processors: applied to the logits.
        emitted_only: whether only rows at emitted positions may be requested.
    """

    def __init__(
        self,
        logits: torch.Tensor,
        proposal: Proposal,
        shown: torch.Tensor,
        places: Sequence[Place],
        processors: LogitsProcessorList,
        *,
        emitted_only: bool = False,
    ) -> None:
        self.proposal = proposal
        self.places = places
        self.emitted_only = emitted_only
        self._logits = logits
        self._shown = shown
        self._processors = processors

    def scores(self, rows: Sequence[int]) -> torch.Tensor:
        whole = len(rows) == len(self._logits)
        scores = self._logits if whole else self._logits[rows[0] : rows[-1] + 1]
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if not self._processors:
            return scores
        processed = [
            # A copy: processors may write into the scores, as in `generate`.
            self._process(self._ids(row, scores.device), scores[i : i + 1].clone())
            for i, row in enumerate(rows)
        ]
        return torch.cat(processed)

    def _process(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores after each processor, float ``[1, V]``."""
        shape = scores.shape
        for processor in self._processors:
            scores = processor(ids, scores)
            whole = isinstance(scores, torch.Tensor)
            if not whole or scores.shape != shape:
                returned = f"scores {list(scores.shape)}" if whole else type_of(scores)
                raise ValueError(
                    f"generate: logits processor {type(processor).__name__} returned {returned} "
                    f"for scores {list(shape)}; return the shape they are given, one row at a time"
                )
        return scores

    def _ids(self, row: int, device: torch.device) -> torch.Tensor:
        """The text and the path to the row's node, ``[1, L + depth]``."""
        tree = self.proposal.tree
        path = torch.tensor([[tree.tokens[node] for node in tree.path(row - 1)]], device="cpu")
        return send(torch.cat((self._shown, path.long()), 1), device)
