"""A key-value cache for several texts, each followed by a tree of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache, PretrainedConfig
from transformers.cache_utils import (
    CacheLayerMixin,
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

_COLUMNS = 256
"""Initial number of columns; it at least doubles when more are needed."""


@dataclass
class Place:
    """Where the next pass reads and writes, in all layers."""

    first: int = 0
    """Index of the first text."""
    start: int = 0
    """Column of the first new row of the first text."""
    columns: torch.Tensor | None = None
    """int64 ``[n, R]``: the column of each row of n texts; None if one text's rows are in order."""
    end: int = 0
    """Columns that the pass attends to, masked or not."""
    texts: int = 0
    """Number of texts for which layers have memory."""
    capacity: int = 0
    """Number of columns for which layers have memory."""


class ForestLayer(CacheLayerMixin):
    """Keys and values of one layer, ``[texts, H, capacity, D]``, and where a pass writes them.

    Layers with a sliding window keep all tokens as well, since a token outside the window may be
    inside it again when the text is shortened. The mask hides it.
    """

    is_sliding = False

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = self._grown(self.keys, key_states)
        self.values = self._grown(self.values, value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new states ``[n, H, R, D]``; return views of all columns the rows may attend to."""
        self.lazy_initialization(key_states, value_states)
        return self._written(self.keys, key_states), self._written(self.values, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._place.start + query_length, 0

    def get_seq_length(self) -> int:
        return self._place.start

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False

    def _written(self, states: Any, fresh: torch.Tensor) -> torch.Tensor:
        place = self._place
        texts = slice(place.first, place.first + len(fresh))
        if place.columns is None:
            states[texts, :, place.start : place.start + fresh.shape[2]] = fresh
        else:
            rows = torch.arange(texts.start, texts.stop, device=states.device)
            columns = place.columns.to(states.device)
            states[rows[:, None], :, columns] = fresh.transpose(1, 2)
        view: torch.Tensor = states[texts, :, : place.end]
        return view

    # Tensors made in inference mode could not be written outside it.
    @torch.inference_mode(False)
    def _grown(self, states: torch.Tensor | None, fresh: torch.Tensor) -> torch.Tensor:
        """The states with memory for all texts and columns.

        New memory is zeroed, since masked columns are multiplied by 0 and 0 times NaN is NaN.
        """
        place = self._place
        if states is not None:
            texts, _, columns, _ = states.shape
            if (texts, columns) == (place.texts, place.capacity):
                return states
        shape = (place.texts, fresh.shape[1], place.capacity, fresh.shape[3])
        grown = torch.zeros(shape, dtype=fresh.dtype, device=fresh.device)
        if states is not None:
            grown[:texts, :, :columns] = states
        return grown


class ForestCache(Cache):
    """Keys and values of several texts, with memory that doubles in texts and in columns.

    The columns of a text are its kept tokens, then its pending nodes. The caller knows which
    columns are in use; later columns are overwritten. Each layer grows at its next pass, so that at
    most one layer is held twice.

    Args:
        config: of the model, for which ``holds`` is True.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        self._place = Place()
        super().__init__(
            layers=[
                layer if isinstance(layer, DummyLayer) else ForestLayer(self._place)
                for layer in DynamicCache(config=config).layers
            ]
        )

    @staticmethod
    def holds(config: PretrainedConfig) -> bool:
        """Whether a model's layers remember only keys and values for each token."""
        kinds = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)
        return all(type(layer) in kinds for layer in DynamicCache(config=config).layers)

    @property
    def capacity(self) -> tuple[int, int]:
        """Texts and columns for which there is memory."""
        return self._place.texts, self._place.capacity

    def reserve(self, texts: int, columns: int) -> None:
        """Have memory for at least so many texts and columns from the next pass on."""
        place = self._place
        if texts > place.texts:
            place.texts = max(texts, 2 * place.texts)
        if columns > place.capacity:
            place.capacity = max(columns, 2 * place.capacity, _COLUMNS)

    def write_one(self, text: int, start: int, rows: int) -> None:
        """Let the next pass write ``rows`` columns of one text, from ``start`` on."""
        self.reserve(text + 1, start + rows)
        place = self._place
        place.first, place.start, place.columns, place.end = text, start, None, start + rows

    def write(self, first: int, columns: torch.Tensor, end: int) -> None:
        """Let the next pass write the given columns.

        Args:
            first: index of the first text.
            columns: int64 ``[n, R]``, a column for each row of n texts.
            end: number of columns to which the pass attends; all written ones are below it.
        """
        self.reserve(first + len(columns), end)
        place = self._place
        place.first, place.start, place.columns, place.end = first, 0, columns, end

    def keep(self, text: int, start: int, columns: Sequence[int]) -> None:
        """Move columns of a text to consecutive columns from ``start`` on."""
        in_place = 0
        while in_place < len(columns) and columns[in_place] == start + in_place:
            in_place += 1
        if in_place == len(columns):
            return
        target = slice(start + in_place, start + len(columns))
        for states in self._states():
            source = torch.tensor(columns[in_place:], device=states.device)
            states[text, :, target] = states[text].index_select(1, source)

    def drop(self, text: int, last: int, length: int) -> None:
        """Copy the first ``length`` columns of the last text over those of another."""
        if text != last and length:  # a text of which nothing has been read may have no memory
            for states in self._states():
                states[text, :, :length] = states[last, :, :length]

    def clear(self) -> None:
        """Forget all texts and free the memory."""
        for layer in self.layers:
            layer.reset()
        self._place.texts = self._place.capacity = 0
        self._place.columns = None

    @staticmethod
    def largest(texts: int, columns: int) -> tuple[int, int]:
        """The most texts and columns that memory is reserved for while these are written."""
        return _doubled(1, texts), _doubled(_COLUMNS, columns)

    def bytes_per_token(self) -> int:
        """Bytes of memory for one token of one text; 0 before the first pass."""
        return sum(
            states.shape[1] * states.shape[3] * states.element_size() for states in self._states()
        )

    def _states(self) -> Iterator[torch.Tensor]:
        for layer in self.layers:
            if isinstance(layer, ForestLayer) and layer.keys is not None:
                yield layer.keys
                assert layer.values is not None
                yield layer.values


def _doubled(first: int, least: int) -> int:
    """The first of ``first``, ``2 * first``, ``4 * first`` ... that is at least ``least``."""
    size = first
    while size < least:
        size *= 2
    return size
