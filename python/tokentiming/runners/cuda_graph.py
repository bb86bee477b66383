"""A model on a GPU, whose passes over few rows are replayed as CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from tokentiming.runners.forest import PREFILL_CHUNK, Text
from tokentiming.runners.masks import Masks, Rows
from tokentiming.runners.torch import MASKED, TorchRunner, last_rows
from tokentiming.tokens.tree import Tree

logger = logging.getLogger(__name__)

_CAPACITY = 1024
"""Initial number of columns of the cache; it at least doubles when more are needed."""

_ROWS = (1, 2, 4, 8, 16, 32)
"""Numbers of rows of each text in recorded passes. An ordinary pass reads more rows."""

Pass = Callable[[], torch.Tensor]
"""Runs a forward pass over the same tensors each time, and returns its logits."""


class CudaGraphRunner(TorchRunner):
    """Runs a model with a cache of fixed address, and replays its passes over few rows.

    A small model's pass over few rows is hundreds of small kernels, which take longer to launch
    than to run. The numbers of texts and rows are padded to powers of two, and the pass for each
    pair of these numbers is recorded at its first use. It attends to the whole cache with a mask,
    so that a recording stays valid until the cache grows. If a recording fails, all further passes
    are ordinary ones.

    Args:
        model: one that ``CudaGraphRunner.runs``; borrowed, never changed.
        record: turns a pass into its recording; by default into a CUDA graph.
        capacity: initial number of columns of the cache.
        prefill_chunk: maximum number of tokens of a text in a prefill pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        record: Callable[[Pass], Pass] | None = None,
        *,
        capacity: int = _CAPACITY,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        super().__init__(model, prefill_chunk=prefill_chunk)
        self._record = record or partial(cuda_graph, device=self.device)
        self._records = True
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._cache.reserve(1, capacity)
        self._recorded_capacity = self._cache.capacity

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (self.model, self._prefill_chunk, self.supports_forests)

    @staticmethod
    def runs(model: PreTrainedModel) -> bool:
        """Whether the model is on a GPU, can be recorded, and accepts any mask."""
        config = model.config.get_text_config()
        return (
            model.device.type == "cuda"
            and model._can_compile_fullgraph
            and config._attn_implementation in MASKED
            and Masks(config, model.dtype).known
        )

    def _clear(self) -> None:
        """Keep the memory, because recordings use its address. Its contents are overwritten."""

    def _pass(self, rows: Sequence[Tree], first: int, wanted: Sequence[int]) -> list[torch.Tensor]:
        count = max(len(tree) for tree in rows)
        padded = next((number for number in _ROWS if number >= count), None)
        whole = first == 0 and len(rows) in (1, len(self._texts))  # padding overwrites no text
        one_by_one = self._one_by_one and len(rows) > 1
        recordable = whole and not one_by_one and any(wanted)  # a recording computes all logits
        if self._records and self.supports_forests and recordable and padded:
            try:
                return last_rows(self._replayed(rows, padded), wanted)
            except _NotRecordedError as error:  # the ordinary pass overwrites its rows
                _warn(self.model, error.__cause__)
                self._records = False
                self._recordings.clear()
        return super()._pass(rows, first, wanted)

    def _replayed(self, trees: Sequence[Tree], rows: int) -> torch.Tensor:
        """Logits ``[n, R, V]`` of a recorded pass."""
        texts = 1 << (len(trees) - 1).bit_length()
        missing = texts - len(trees)
        padded = [*self._texts[: len(trees)], *(Text() for _ in range(missing))]
        fresh = Rows.of(padded, [*trees, *(Tree() for _ in range(missing))], rows, self.device)
        self._cache.reserve(texts, fresh.end)
        if self._cache.capacity != self._recorded_capacity:
            self._recordings.clear()
            self._recorded_capacity = self._cache.capacity
        inputs = _Inputs.of(fresh, self._masks, self._recorded_capacity[1])
        if (texts, rows) not in self._recordings:
            self._recordings[texts, rows] = self._recording(inputs)
        recording = self._recordings[texts, rows]
        recording.inputs.copy_(inputs)
        return recording.run()[: len(trees)].clone()  # the next run overwrites them

    # The inputs of a recording are written in every mode, and inference tensors cannot be written
    # outside inference mode.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _recording(self, inputs: _Inputs) -> _Recording:
        inputs = inputs.clone()
        columns = self._recorded_capacity[1]

        @torch.inference_mode(False)
        @torch.no_grad()
        def run() -> torch.Tensor:
            self._cache.write(0, inputs.columns, columns)
            return self._forward(
                inputs.tokens,
                inputs.tokens.shape[1],
                position_ids=inputs.positions,
                attention_mask=inputs.masks,
            )

        try:
            run()  # the cache is allocated at first use, which must not be recorded
            return _Recording(inputs, self._record(run))
        except Exception as error:  # any class: a graph may fail in any way
            raise _NotRecordedError from error


@dataclass(frozen=True)
class _Inputs:
    """What a recorded pass reads."""

    tokens: torch.Tensor
    positions: torch.Tensor
    columns: torch.Tensor
    masks: Any
    """A tensor, or a dict of them."""

    @classmethod
    def of(cls, rows: Rows, masks: Masks, columns: int) -> _Inputs:
        return cls(rows.tokens, rows.positions, rows.columns, masks.of(rows, columns))

    def clone(self) -> _Inputs:
        tokens, positions, columns = (
            tensor.clone() for tensor in (self.tokens, self.positions, self.columns)
        )
        if isinstance(self.masks, dict):
            masks = {kind: mask.clone() for kind, mask in self.masks.items()}
        else:
            masks = self.masks.clone()
        return _Inputs(tokens, positions, columns, masks)

    def copy_(self, other: _Inputs) -> None:
        for mine, fresh in zip(self._tensors(), other._tensors(), strict=True):
            mine.copy_(fresh)

    def _tensors(self) -> list[torch.Tensor]:
        masks = list(self.masks.values()) if isinstance(self.masks, dict) else [self.masks]
        return [self.tokens, self.positions, self.columns, *masks]


@dataclass(frozen=True)
class _Recording:
    inputs: _Inputs
    run: Pass


class _NotRecordedError(Exception):
    """A pass could not be recorded; the cause says why."""


def _copied(model: PreTrainedModel, prefill_chunk: int, forests: bool) -> CudaGraphRunner:
    runner = CudaGraphRunner(model, prefill_chunk=prefill_chunk)
    runner.supports_forests = forests  # the probe may have set it
    return runner


def _warn(model: PreTrainedModel, error: BaseException | None) -> None:
    logger.warning(
        "%s cannot be recorded as a CUDA graph and is run without, which is slower (%s: %s)",
        type(model).__name__, type(error).__name__, error,
    )  # fmt: skip


def cuda_graph(run: Pass, device: torch.device) -> Pass:
    """Record a pass; each call of the result replays it and returns the same tensor, rewritten."""
    with torch.cuda.device(device):
        outside = torch.cuda.current_stream()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        stream.wait_stream(outside)
        with torch.cuda.stream(stream):  # a failed capture does not leave its stream
            for _ in range(3):  # libraries initialize at first use, which must not be recorded
                run()
            # Other threads may use the device meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                logits = run()
        outside.wait_stream(stream)

    def replay() -> torch.Tensor:
        graph.replay()
        return logits

    return replay
