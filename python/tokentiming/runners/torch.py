"""A model of transformers, run by torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from tokentiming.devices import send
from tokentiming.runners.attention import shared_heads
from tokentiming.runners.base import context_length, longrope_length, rotations
from tokentiming.runners.cache import ForestCache
from tokentiming.runners.forest import PREFILL_CHUNK, ForestRunner, continues
from tokentiming.runners.masks import Masks, Rows
from tokentiming.tokens.tree import Tree

PassContext = Callable[[int], AbstractContextManager[Any]]
"""A context for a forward pass over a number of rows."""

MASKED = ("eager", "sdpa")
"""Attention implementations that accept any mask."""

_numbers_per_token: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()
"""Numbers in the cache for one token of one text, of models that have run."""


class TorchRunner(ForestRunner):
    """Runs any causal language model of transformers, with one cache for several texts and trees.

    Args:
        model: borrowed, never changed.
        context: entered around each forward pass; ``runners.linear.native_linear(embedding)`` lets
            ``tokentiming._native`` compute the linear layers. By default they are torch's own.
        prefill_chunk: maximum number of tokens of a text in a prefill pass. With LongRoPE it is at
            least one more than the length at which the rotary tables change.

    Example:
        >>> runner = TorchRunner(model)
        >>> tree = Tree([5, 6, 7], [TEXT, TEXT, 1])  # 5, or 6 and then 7
        >>> (logits,) = runner.read([[1, 2, 3]], [tree])
        >>> logits.shape == (4, model.config.vocab_size)  # after 3, 5, 6 and 7
        True
        >>> (logits,) = runner.read([[1, 2, 3, 6, 7, 9]], [Tree()])  # reads 9 alone
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        context: PassContext | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        super().__init__(
            model,
            device=model.device,
            max_length=context_length(model),
            prefill_chunk=prefill_chunk,
        )
        config = model.config.get_text_config()
        short = longrope_length(config)
        if short is not None:
            self._prefill_chunk = max(self._prefill_chunk, short + 1)
        self._context = context
        self._no_logits_to_keep = _no_logits_to_keep(model)
        self._cache = ForestCache(model.config)
        self._masks = Masks(config, model.get_input_embeddings().weight.dtype)
        self._one_by_one = _rotates_by_pass(config)
        if self._one_by_one:
            self._joint = self._prefill_chunk
        self.supports_forests = config._attn_implementation in MASKED and self._masks.known

    def __reduce__(self) -> tuple[Any, ...]:
        options = {"context": self._context, "prefill_chunk": self._prefill_chunk}
        return _copied, (type(self), self.model, self.supports_forests, options)

    def cache_bytes(self, texts: int, tokens: int) -> int:
        reserved, columns = ForestCache.largest(texts, tokens)
        of_token: int = _numbers_per_token.get(self.model, 0) * self.model.dtype.itemsize
        return reserved * columns * of_token

    def _pass(self, rows: Sequence[Tree], first: int, wanted: Sequence[int]) -> list[torch.Tensor]:
        parents = [*self._texts[first].parents, *rows[0].parents]
        if len(rows) == 1 and continues(parents, 0):
            return [self._read_chain(rows[0], first, wanted[0])]
        if len(rows) == 1 or not self._one_by_one:
            return self._read_forest(rows, first, wanted)
        read = [index for index, tree in enumerate(rows) if len(tree)]
        logits = {i: self._pass([rows[i]], first + i, [wanted[i]])[0] for i in read}
        nothing = logits[read[0]][:0]
        return [logits.get(i, nothing) for i in range(len(rows))]

    def _read_chain(self, tree: Tree, index: int, wanted: int) -> torch.Tensor:
        """Read rows that attend to all columns of one text; transformers makes the mask itself."""
        text = self._texts[index]
        tokens = send(torch.tensor([list(tree.tokens)], device="cpu"), self.device)
        self._cache.write_one(index, len(text.kept) + len(text.tokens), len(tree))
        return last_rows(self._forward(tokens, wanted), [wanted])[0]

    def _read_forest(
        self, trees: Sequence[Tree], first: int, wanted: Sequence[int]
    ) -> list[torch.Tensor]:
        texts = self._texts[first : first + len(trees)]
        rows = Rows.of(texts, trees, max(len(tree) for tree in trees), self.device)
        if len(trees) == 1:
            self._cache.write_one(first, rows.end - len(trees[0]), len(trees[0]))
        else:
            self._cache.write(first, rows.columns, rows.end)
        logits = self._forward(
            rows.tokens,
            max(wanted),
            position_ids=rows.positions,
            attention_mask=self._masks.of(rows, rows.end),
        )
        return last_rows(logits, wanted)

    def _forward(self, tokens: torch.Tensor, keep: int, **inputs: Any) -> torch.Tensor:
        """Logits ``[n, at least keep, V]`` of tokens ``[n, R]``."""
        kept = keep or self._no_logits_to_keep
        context = self._context(tokens.numel()) if self._context else nullcontext()
        with shared_heads(self.device, rows=tokens.shape[1]), context:
            output = self.model(
                tokens,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=kept,
                **inputs,
            )
        if self.model not in _numbers_per_token:
            size = self.model.dtype.itemsize
            _numbers_per_token[self.model] = self._cache.bytes_per_token() // size
        logits: torch.Tensor = output.logits
        return logits

    def _keep(self, index: int, nodes: Sequence[int]) -> None:
        start = len(self._texts[index].kept)
        self._cache.keep(index, start, [start + node for node in nodes])

    def _truncate(self, index: int, length: int) -> int:
        return length  # later columns are not attended to, and are overwritten

    def _drop(self, index: int) -> None:
        last = self._texts[-1]
        self._cache.drop(index, len(self._texts) - 1, len(last.kept) + len(last.tokens))

    def _clear(self) -> None:
        self._cache.clear()

    def _refusal(self) -> str:
        name = type(self.model).__name__
        attention = self.model.config.get_text_config()._attn_implementation
        if attention not in MASKED:
            return (
                f"{name} has attention implementation {attention!r}, which takes no mask for "
                "several texts or a tree with branches; load it with attn_implementation='sdpa'"
                ", or give one text and Tree.chain(tokens)"
            )
        return (
            f"{name} gives other logits for several texts or a tree with branches (its attention "
            f"implementation is {attention!r}); give one text and Tree.chain(tokens), or try "
            "attn_implementation='sdpa'"
        )


def last_rows(logits: torch.Tensor, wanted: Sequence[int]) -> list[torch.Tensor]:
    """The last rows of each text's logits, ``[wanted[i], V]`` of ``[n, R, V]``."""
    return [text[len(text) - count :] for text, count in zip(logits, wanted, strict=True)]


def _no_logits_to_keep(model: PreTrainedModel) -> int | torch.Tensor:
    """The ``logits_to_keep`` of a pass without logits, which then does not read the head's weights.

    No index, as the number 0 means all rows. One row for models that may accept numbers only: those
    of other packages, and Gemma 4, which skips other rows in its last layers if it gets a number.
    """
    own = type(model).__module__.startswith("transformers.")
    skips = getattr(model.config.get_text_config(), "num_kv_shared_layers", 0)
    return torch.empty(0, dtype=torch.int64, device="cpu") if own and not skips else 1


def _rotates_by_pass(config: Any) -> bool:
    """Whether rotary tables depend on the largest position of a pass, over all of its texts."""
    return any(rope.get("rope_type") in ("longrope", "dynamic") for rope in rotations(config))


def _copied(
    kind: type[TorchRunner], model: PreTrainedModel, forests: bool, options: dict[str, Any]
) -> TorchRunner:
    runner = kind(model, **options)
    runner.supports_forests = forests  # the probe may have set it
    return runner
