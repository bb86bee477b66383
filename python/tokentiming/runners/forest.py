"""Bookkeeping of what a runner has read of each text, common to all runners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tokentiming.runners.base import common_prefix
from tokentiming.runners.joint import JOINT, joint_texts
from tokentiming.scalars import integer
from tokentiming.tokens.tree import NO_TREE, TEXT, Tree

PREFILL_CHUNK = 512
"""Maximum number of tokens of a text in a prefill pass, which bounds the memory of a pass."""


@dataclass
class Text:
    """What a runner has read of a text."""

    kept: list[int] = field(default_factory=list)
    """Tokens of the text, in order."""
    tokens: list[int] = field(default_factory=list)
    """Tokens of the pending nodes, read since: the last tokens of the text, then its tree."""
    parents: list[int] = field(default_factory=list)
    """For each pending node its parent, or ``TEXT`` for the last kept token."""
    last: int = TEXT
    """Pending node of the text's last token."""
    valid: bool = True
    """False from the start of a change to its end, since an interrupted change is incomplete."""

    def path(self, ids: Sequence[int]) -> list[int]:
        """Pending nodes along the ids that follow the kept tokens."""
        pending = Tree(self.tokens, self.parents)
        nodes: list[int] = []
        for token in ids:
            node = pending.child(nodes[-1] if nodes else TEXT, token)
            if node is None:
                break
            nodes.append(node)
        return nodes

    def forget_pending(self) -> None:
        self.tokens, self.parents, self.last = [], [], TEXT


class ForestRunner(ABC):
    """A ``ModelRunner`` whose subclasses read rows, keep paths and forget texts.

    Args:
        model: borrowed, never changed.
        device: where the model and its logits are.
        max_length: maximum number of tokens that the model can read, if it is known.
        prefill_chunk: maximum number of tokens of a text in a prefill pass.

    Raises:
        ValueError: ``prefill_chunk`` is less than 1.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: torch.device,
        max_length: int | None,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        self.model = model
        self.device = device
        self.max_length = max_length
        self.forwards = 0
        self.supports_forests = True
        self._prefill_chunk = integer(
            prefill_chunk, "prefill_chunk", least=1, caller=type(self).__name__
        )
        self._joint = JOINT
        self._texts: list[Text] = []
        self._complete = False  # whether the last read came to its end

    def cache_bytes(self, texts: int, tokens: int) -> int:
        """Bytes of memory for so many texts of so many tokens each; 0 if it is not known."""
        return 0

    @abstractmethod
    def __reduce__(self) -> tuple[Any, ...]:
        """Copy by constructing from the model; the copy starts without texts."""

    # Not inference_mode: a model keeps some tensors that it creates in a pass, such as rotary
    # tables, and it could not be trained later if these were inference tensors.
    @torch.no_grad()
    def read(self, texts: Sequence[Sequence[int]], trees: Sequence[Tree]) -> list[torch.Tensor]:
        self._check_texts(texts, trees)
        if not self.supports_forests and not (len(texts) == 1 and continues(trees[0].parents, 0)):
            raise ValueError(f"read: {self._refusal()}")
        self._complete = False
        self._texts += [Text() for _ in texts[len(self._texts) :]]
        for index, ids in enumerate(texts):
            if ids:
                self._match(index, ids)
        self._prefill(texts, self._joint if len(texts) > 1 else self._prefill_chunk)
        rows: list[Tree] = []
        for text, ids, tree in zip(self._texts, texts, trees, strict=True):
            if not ids:
                rows.append(NO_TREE)
                continue
            tail = Tree.chain(ids[len(text.kept) :])
            text.last = len(tail) - 1
            behind = _behind(tree, text.last)
            rows.append(
                Tree([*tail.tokens, *tree.tokens], [*tail.parents, *behind.parents])
            )  # fmt: skip
        wanted = [1 + len(tree) if ids else 0 for ids, tree in zip(texts, trees, strict=True)]
        logits = self._read(rows, 0, wanted)
        self._no_logits = logits[0].new_empty((0, logits[0].shape[-1]))
        self._complete = True
        return logits

    @torch.no_grad()
    def extend(self, trees: Sequence[Tree]) -> list[torch.Tensor]:
        known = self._complete and all(text.valid for text in self._texts)
        if not trees or len(trees) != len(self._texts) or not known:
            raise ValueError(
                f"extend: {len(trees)} trees, for {len(self._texts)} texts of which some may not "
                "have been read to their end; call read first, and give one tree for each text"
            )
        rows = [_behind(tree, text.last) for text, tree in zip(self._texts, trees, strict=True)]
        if not self.supports_forests and not continues(rows[0].parents, len(self._texts[0].tokens)):
            raise ValueError(f"extend: {self._refusal()}")
        if not any(rows):
            return [self._no_logits for _ in rows]
        return self._read(rows, 0, [len(row) for row in rows])

    def drop(self, index: int) -> None:
        if index >= len(self._texts):
            return
        self._texts[index] = Text(valid=False)
        self._drop(index)
        self._texts[index] = self._texts[-1]
        self._texts.pop()

    def reset(self) -> None:
        self._texts = []
        self._clear()

    def _check_texts(self, texts: Sequence[Sequence[int]], trees: Sequence[Tree]) -> None:
        if not texts or len(texts) != len(trees):
            raise ValueError(
                f"read: {len(texts)} texts and {len(trees)} trees; give at least one text, and a "
                "tree for each (Tree() if nothing follows)"
            )
        if len(texts) < len(self._texts):
            raise ValueError(
                f"read: got {len(texts)} texts, but {len(self._texts)} have been read before; call "
                "drop for each that has ended"
            )
        if not any(texts):
            raise ValueError("read: all texts are empty; give one of them at least one token")

    def _match(self, index: int, ids: Sequence[int]) -> None:
        """Keep the common prefix of the ids and of the tokens read before, and forget the rest.

        The last id is read again, because its logits are not stored.
        """
        text, ids = self._texts[index], list(ids[:-1])
        length = common_prefix(text.kept, ids)
        path = text.path(ids[length:]) if text.valid and length == len(text.kept) else []
        if path:
            self._keep_path(index, path)
        elif not text.valid or text.tokens or length < len(text.kept):
            text.forget_pending()
            text.valid = False
            del text.kept[length:]
            del text.kept[self._truncate(index, length) :]
            text.valid = True

    def _prefill(self, texts: Sequence[Sequence[int]], limit: int) -> None:
        """Read and keep tokens of texts until at most ``limit`` of each are unread."""
        while any(counts := self._counts(texts, limit)):
            for joint in joint_texts(counts, self._prefill_chunk):
                unread = [texts[index][len(self._texts[index].kept) :] for index in joint]
                rows = [Tree.chain(ids[: counts[i]]) for i, ids in zip(joint, unread, strict=True)]
                self._read(rows, joint.start, [0] * len(joint))
                for index in joint:
                    self._keep_path(index, range(counts[index]))

    def _counts(self, texts: Sequence[Sequence[int]], limit: int) -> list[int]:
        """For each text the number of tokens in the next prefill pass."""
        unread = [len(ids) - len(text.kept) for ids, text in zip(texts, self._texts, strict=True)]
        return [min(self._prefill_chunk, n - 1) if n > limit else 0 for n in unread]

    def _read(self, rows: Sequence[Tree], first: int, wanted: Sequence[int]) -> list[torch.Tensor]:
        texts = self._texts[first : first + len(rows)]
        changed = [(text, tree) for text, tree in zip(texts, rows, strict=True) if len(tree)]
        for text, _ in changed:
            text.valid = False
        logits = self._pass(rows, first, wanted)
        self.forwards += 1
        for text, tree in changed:
            text.tokens += tree.tokens
            text.parents += tree.parents
            text.valid = True
        return logits

    def _keep_path(self, index: int, nodes: Sequence[int]) -> None:
        text = self._texts[index]
        tokens = [text.tokens[node] for node in nodes]
        text.forget_pending()
        text.valid = False
        self._keep(index, nodes)
        text.kept += tokens
        text.valid = True

    def _refusal(self) -> str:
        """Why the model reads one text and a chain only, and the way out."""
        return (
            f"{type(self.model).__name__} reads one text and a tree without branches; give one "
            "text and Tree.chain(tokens)"
        )

    @abstractmethod
    def _pass(self, rows: Sequence[Tree], first: int, wanted: Sequence[int]) -> list[torch.Tensor]:
        """Read rows of consecutive texts in one pass; all of them become pending.

        Args:
            rows: ``rows[i]`` are the rows of the text with index ``first + i``. Parents index that
                text's pending nodes, the old ones first and then these; ``TEXT`` is its last kept
                token.
            first: index of the first text, at most the number of texts read before.
            wanted: the number of each text's last rows that need logits.

        Returns:
            For each text float ``[wanted[i], V]``.
        """

    @abstractmethod
    def _keep(self, index: int, nodes: Sequence[int]) -> None:
        """Add a path of pending nodes to the kept tokens of a text; forget the other nodes."""

    @abstractmethod
    def _truncate(self, index: int, length: int) -> int:
        """Forget pending nodes and all but the first ``length`` kept tokens of a text.

        Nothing of the text has been read if its first pass was interrupted.

        Returns:
            Number of kept tokens, at most ``length``.
        """

    @abstractmethod
    def _drop(self, index: int) -> None:
        """Forget a text; the last one takes its index."""

    @abstractmethod
    def _clear(self) -> None:
        """Forget all texts."""


def continues(parents: Sequence[int], nodes: int) -> bool:
    """Whether each node, numbered from ``nodes`` on, is the child of the node before it."""
    return all(parent == node - 1 for node, parent in enumerate(parents, nodes))


def _behind(tree: Tree, last: int) -> Tree:
    """The tree with nodes numbered after ``last``, the pending node of the text's last token."""
    return Tree(tree.tokens, [parent + last + 1 for parent in tree.parents])
