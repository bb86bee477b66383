"""A model in a GGUF file, run by llama.cpp."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from tokentiming.runners.forest import PREFILL_CHUNK, ForestRunner, Text
from tokentiming.tokens.llama_cpp import LlamaCppModel
from tokentiming.tokens.tree import TEXT, Tree

_CELLS = 1024
"""Minimum number of tokens in the cache."""
_SPARE = 256
"""Cells of each text that are kept free for its trees."""
_SEQUENCES = 64
"""Minimum number of sequences, one for each text and one for each branch of a tree."""


class _Sequences:
    """The sequences of llama.cpp that hold a text and its pending nodes.

    A node is in the sequence of its parent if it is the first child that was read, and otherwise
    in a new one, a copy of the parent's up to there. Copies share their cells.

    Attributes:
        main: of the kept tokens.
        of: for each pending node its sequence.
        positions: for each pending node its position.
        tips: for each sequence its last node, or ``TEXT``.
    """

    def __init__(self, main: int) -> None:
        self.main = main
        self.of: list[int] = []
        self.positions: list[int] = []
        self.tips = {main: TEXT}

    def branches(self, parent: int) -> bool:
        """Whether another child of a node, or of ``TEXT``, starts a sequence."""
        return self.tips[self.main if parent == TEXT else self.of[parent]] != parent


class LlamaCppRunner(ForestRunner):
    """Runs a model in a GGUF file by llama.cpp, with one cache for several texts and trees.

    The cache grows with the texts; they are read again when it does. Its keys and values are
    float16.

    Args:
        model: to run.
        max_length: maximum number of tokens of a text; by default as many as the model was trained
            with.
        threads: number of threads; by default those of torch.
        caller: the function that messages begin with.

    Raises:
        ValueError: the model is not a decoder with attention layers only, or a number is below 1.
    """

    model: LlamaCppModel

    def __init__(
        self,
        model: LlamaCppModel,
        *,
        max_length: int | None = None,
        threads: int | None = None,
        caller: str = "LlamaCppRunner",
    ) -> None:
        self._library = model.library
        _require_rollback(model, caller)
        trained: int = self._library.llama_model_n_ctx_train(model.pointer)
        super().__init__(
            model,
            device=torch.device("cpu"),
            max_length=trained if max_length is None else min(max_length, trained),
        )
        self._threads = torch.get_num_threads() if threads is None else threads
        self._size: int = self._library.llama_vocab_n_tokens(
            self._library.llama_model_get_vocab(model.pointer)
        )
        self._sequences: list[_Sequences] = []
        self._free: list[int] = []
        self._cells = self._most = 0
        self._batch = self._library.llama_batch_init(PREFILL_CHUNK, 0, 1)
        weakref.finalize(self, self._library.llama_batch_free, self._batch)
        self._release: Any = lambda: None

    def __reduce__(self) -> tuple[Any, ...]:
        again = partial(type(self), max_length=self.max_length, threads=self._threads)
        return again, (self.model,)

    @property
    def remaining(self) -> tuple[int, int]:
        """Number of nodes, and of branches, that ``extend`` can add."""
        used = sum(len(text.kept) + len(text.tokens) for text in self._texts)
        return self._cells - used, len(self._free)

    def read(self, texts: Sequence[Sequence[int]], trees: Sequence[Tree]) -> list[torch.Tensor]:
        self._check_texts(texts, trees)
        self._reserve(texts, trees)
        return super().read(texts, trees)

    def _reserve(self, texts: Sequence[Sequence[int]], trees: Sequence[Tree]) -> None:
        """Make a larger cache, which is empty, if the present one may become too small."""
        known = [len(text.kept) + len(text.tokens) for text in self._texts]
        known += [0] * (len(texts) - len(known))
        cells = _SPARE * len(texts) + sum(map(len, trees))
        cells += sum(len(ids) or count for ids, count in zip(texts, known, strict=True))
        most = self._library.llama_max_parallel_sequences()
        sequences = min(most, _power(max(_SEQUENCES, 2 * len(texts))))
        if len(texts) > most:
            raise ValueError(
                f"LlamaCppRunner: {len(texts)} texts, and llama.cpp holds {most} sequences; "
                "give a smaller batch_size"
            )
        if cells <= self._cells and sequences <= self._most:
            return
        self._release()
        self._cells = self._most = 0
        cells, sequences = _power(max(_CELLS, cells)), max(sequences, self._most)
        self._context = self._new_context(cells, sequences)
        self._memory = self._library.llama_get_memory(self._context)
        self._release = weakref.finalize(self, _free, self.model, self._context)
        self._cells, self._most = cells, sequences
        self._texts = [Text() for _ in self._texts]
        self._clear()

    def _options(self, cells: int, sequences: int) -> Any:
        options = self._library.llama_context_default_params()
        options.n_ctx, options.n_seq_max = cells, sequences
        options.n_batch = options.n_ubatch = PREFILL_CHUNK
        options.n_threads = options.n_threads_batch = self._threads
        options.kv_unified = True  # sequences share cells
        options.swa_full = True  # sliding windows by mask, so that all layers roll back
        return options

    def _new_context(self, cells: int, sequences: int) -> Any:
        options = self._options(cells, sequences)
        context = self._library.llama_init_from_model(self.model.pointer, options)
        if not context:
            raise RuntimeError(
                f"LlamaCppRunner: llama.cpp cannot create a cache of {cells} tokens; give fewer or "
                "shorter texts"
            )
        return context

    def _pass(self, rows: Sequence[Tree], first: int, wanted: Sequence[int]) -> list[torch.Tensor]:
        logits = [torch.empty((count, self._size), device=self.device) for count in wanted]
        waiting: list[_Row] = []
        for index, (tree, values) in enumerate(zip(rows, logits, strict=True), first):
            held = self._held(index)
            read = len(held.of)
            without = len(tree) - len(values)
            for number, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
                # The cells of a parent must exist before a branch copies them.
                if len(waiting) == PREFILL_CHUNK or (parent >= read and held.branches(parent)):
                    self._decode(waiting)
                    read = len(held.of)
                sequence, position = self._place(index, parent)
                row = values[number - without] if number >= without else None
                waiting.append(_Row(token, position, sequence, row))
        self._decode(waiting)
        return logits

    def _place(self, index: int, parent: int) -> tuple[int, int]:
        """The sequence and the position of a new node of a text."""
        held = self._held(index)
        sequence, position = held.main, len(self._texts[index].kept)
        if parent != TEXT:
            sequence, position = held.of[parent], held.positions[parent] + 1
        if held.branches(parent):
            source, sequence = sequence, self._free.pop()
            held.tips[sequence] = parent
            self._library.llama_memory_seq_cp(self._memory, source, sequence, 0, position)
        held.tips[sequence] = len(held.of)
        held.of.append(sequence)
        held.positions.append(position)
        return sequence, position

    def _decode(self, waiting: list[_Row]) -> None:
        """Read rows in one pass of llama.cpp, and write their logits."""
        if not waiting:
            return
        batch = self._batch
        batch.n_tokens = len(waiting)
        for i, row in enumerate(waiting):
            batch.token[i], batch.pos[i] = row.token, row.position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row.sequence
            batch.logits[i] = row.logits is not None
        status = self._library.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(
                f"LlamaCppRunner: llama_decode returned {status} for {len(waiting)} tokens in a "
                f"cache of {self._cells}"
            )
        outputs = [row.logits for row in waiting if row.logits is not None]
        if outputs:
            pointer = self._library.llama_get_logits(self._context)
            found = np.ctypeslib.as_array(pointer, (len(outputs), self._size))
            for values, scores in zip(outputs, torch.from_numpy(found), strict=True):
                values.copy_(scores)
        waiting.clear()

    def _keep(self, index: int, nodes: Sequence[int]) -> None:
        length = len(self._texts[index].kept) + len(nodes)
        self._reduce(index, self._held(index).of[nodes[-1]], length)

    def _truncate(self, index: int, length: int) -> int:
        self._reduce(index, self._held(index).main, length)
        return length

    def _reduce(self, index: int, chosen: int, length: int) -> None:
        """Keep the first ``length`` tokens of one sequence of a text, and free the others."""
        held = self._held(index)
        for sequence in held.tips:
            start = length if sequence == chosen else -1
            if not self._library.llama_memory_seq_rm(self._memory, sequence, start, -1):
                raise RuntimeError(
                    f"LlamaCppRunner: llama.cpp cannot roll back '{self.model.path}'"
                )
        self._free += [sequence for sequence in held.tips if sequence != chosen]
        self._sequences[index] = _Sequences(chosen)

    def _drop(self, index: int) -> None:
        self._held(len(self._texts) - 1)
        for sequence in self._sequences[index].tips:
            self._library.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            self._free.append(sequence)
        self._sequences[index] = self._sequences[-1]
        self._sequences.pop()

    def _clear(self) -> None:
        self._sequences = []
        self._free = list(range(self._most))
        if self._most:
            self._library.llama_memory_clear(self._memory, False)

    def _held(self, index: int) -> _Sequences:
        """The sequences of a text; a text of which nothing has been read gets one."""
        while len(self._sequences) <= index:
            self._sequences.append(_Sequences(self._free.pop()))
        return self._sequences[index]


class _Row(NamedTuple):
    """A token to read."""

    token: int
    position: int
    sequence: int
    logits: torch.Tensor | None
    """``[V]``, to be filled; None if they are not wanted."""


def _require_rollback(model: LlamaCppModel, caller: str) -> None:
    """Refuse a model that is no decoder with attention layers only."""
    kinds = {
        "has an encoder": model.library.llama_model_has_encoder,
        "keeps a recurrent state": model.library.llama_model_is_recurrent,
        "has recurrent layers": model.library.llama_model_is_hybrid,
        "generates by diffusion": model.library.llama_model_is_diffusion,
    }
    for refused, is_so in kinds.items():
        if is_so(model.pointer):
            raise ValueError(
                f"{caller}: '{model.path}' {refused}; give a decoder with attention layers only, "
                "which can be rolled back after a rejected token"
            )


def _power(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (number - 1).bit_length()


def _free(model: LlamaCppModel, context: Any) -> None:
    model.library.llama_free(context)
