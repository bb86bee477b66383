"""Positions and attention masks of rows that belong to trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PretrainedConfig

from tokentiming.devices import send
from tokentiming.runners.forest import Text
from tokentiming.tokens.tree import TEXT, Tree

_FULL, _SLIDING, _CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


@dataclass(frozen=True)
class Rows:
    """New rows of n texts, padded on the left to a common number R.

    A padding row is written after the real rows of its text, and attends only to itself.
    """

    tokens: torch.Tensor
    """int64 ``[n, R]``."""
    positions: torch.Tensor
    """int64 ``[n, R]``: number of kept tokens of the text and of the row's ancestors; 0 for
    padding."""
    columns: torch.Tensor
    """int64 ``[n, R]``: the column of the cache to which each row is written."""
    kept: torch.Tensor
    """int64 ``[n, 1]``: number of kept tokens, to which all rows attend."""
    seen: torch.Tensor
    """bool ``[n, R, 1 + W + 1]``: whether a row attends to each of the W columns after the kept
    ones. The first entry (True) stands for all kept columns, the last (False) for all later ones.
    """
    column_positions: torch.Tensor
    """int64 ``[n, 1 + W + 1]``: positions of the same columns."""
    end: int
    """Number of columns up to the end of the longest text."""

    @classmethod
    def of(
        cls, texts: Sequence[Text], trees: Sequence[Tree], rows: int, device: torch.device
    ) -> Rows:
        """Rows of the trees. Parents index the pending nodes of each text, then the new rows.

        Args:
            texts: before the pass.
            trees: the new rows.
            rows: number of rows after padding, at least the number of each tree's nodes.
            device: of the tensors.
        """
        count = len(texts)
        width = rows + max(len(text.tokens) for text in texts)
        tokens, positions, columns = np.zeros((3, count, rows), np.int64)
        seen = np.zeros((count, rows, width + 2), bool)
        seen[:, :, 0] = True
        column_positions = np.zeros((count, width + 2), np.int64)
        for i, (text, tree) in enumerate(zip(texts, trees, strict=True)):
            old, padding = len(text.tokens), rows - len(tree)
            above = ancestors([*text.parents, *tree.parents])
            nodes = len(above)
            tokens[i, padding:] = tree.tokens
            column_positions[i, 1 : 1 + nodes] = len(text.kept) + above.sum(1) - 1
            positions[i, padding:] = column_positions[i, 1 + old : 1 + nodes]
            seen[i, padding:, 1 : 1 + nodes] = above[old:]
            behind = np.r_[nodes : nodes + padding, old:nodes]
            columns[i] = len(text.kept) + behind
            seen[i, np.arange(padding), 1 + behind[:padding]] = True
        kept = np.array([[len(text.kept)] for text in texts])

        def on_device(array: npt.NDArray[Any]) -> torch.Tensor:
            return send(torch.from_numpy(array), device)

        return cls(
            tokens=on_device(tokens),
            positions=on_device(positions),
            columns=on_device(columns),
            kept=on_device(kept),
            seen=on_device(seen),
            column_positions=on_device(column_positions),
            end=int(columns.max()) + 1,
        )


def ancestors(parents: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Whether each node (row) equals another (column) or descends from it: bool ``[N, N]``.

    >>> ancestors([-1, 0, 0]).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    above = np.eye(len(parents), dtype=bool)
    chain = next((i for i, parent in enumerate(parents) if parent != i - 1), len(parents))
    above[:chain, :chain] = np.tri(chain, dtype=bool)
    for node in range(chain, len(parents)):
        if parents[node] != TEXT:
            above[node] |= above[parents[node]]
    return above


class Masks:
    """Attention masks of a model, one for each type of its layers.

    Args:
        config: of the model's text part.
        dtype: of the model's hidden states.

    Attributes:
        known: False if a type of layer is not supported here.
    """

    def __init__(self, config: PretrainedConfig, dtype: torch.dtype) -> None:
        self._config = config
        self._window = getattr(config, "sliding_window", None)
        self._chunk = getattr(config, "attention_chunk_size", None)
        self._dtype = dtype
        self._types = _layer_types(config, self._window, self._chunk)
        # GPT-Neo's local layers measure their window in columns, which differ from positions in a
        # tree.
        local = "local" in (getattr(config, "attention_layers", None) or ())
        self.known = not local and self._types <= {_FULL, _SLIDING, _CHUNKED}

    def of(self, rows: Rows, end: int) -> Any:
        """The masks over columns ``0..end``, in the form that models of transformers accept.

        Returns:
            ``[n, 1, R, end]`` if all layers are of one type, else a dict of these by type; for
            ``sdpa`` bool, else 0 and the least number of ``dtype``.
        """
        column = torch.arange(end, device=rows.kept.device)
        place = (column - rows.kept + 1).clamp(0, rows.seen.shape[2] - 1)
        seen = rows.seen.gather(2, place[:, None].expand(-1, rows.seen.shape[1], -1))
        masks = {
            kind: self._additive(self._limited(kind, seen, rows, place)) for kind in self._types
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _limited(
        self, kind: str, seen: torch.Tensor, rows: Rows, place: torch.Tensor
    ) -> torch.Tensor:
        limit = {_SLIDING: self._window, _CHUNKED: self._chunk}.get(kind)
        if limit is None:
            return seen
        column = torch.arange(place.shape[1], device=place.device)
        columns = torch.where(place == 0, column, rows.column_positions.gather(1, place))
        query, key = rows.positions[:, :, None], columns[:, None]
        near = query - key < limit if kind == _SLIDING else query // limit == key // limit
        return seen.logical_and(near)

    def _additive(self, seen: torch.Tensor) -> torch.Tensor:
        mask = seen[:, None]
        if self._config._attn_implementation == "sdpa":
            return mask
        zero = torch.zeros((), dtype=self._dtype, device=mask.device)
        return torch.where(mask, zero, torch.finfo(self._dtype).min)


def _layer_types(config: PretrainedConfig, window: int | None, chunk: int | None) -> set[str]:
    """Types of the layers, determined as in ``create_masks_for_generate`` of transformers."""
    types = getattr(config, "layer_types", None)
    if types is not None:
        return set(types)
    if window is not None:
        return {_SLIDING}
    return {_FULL} if chunk is None else {_CHUNKED}
