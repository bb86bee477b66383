"""What every drafter does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from tokentiming.noise import Place
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.tree import TEXT, Tree
from tokentiming.tokens.vocabulary import Vocabulary

NOTHING = -2
"""Stands for no token, where a draw has none."""


class Candidates(NamedTuple):
    """Tokens that may follow each of R rows, the likeliest first, on the device of the scores."""

    ids: torch.Tensor
    """int64 ``[R, k]``; below 0 there is none."""
    confidences: torch.Tensor
    """Estimated probability that the target emits each of them, float ``[R, k]``. It affects which
    tokens are proposed, and no distribution."""
    distributions: torch.Tensor | None = None
    """The draft's distributions, float ``[R, V]``, for methods that use them."""

    def rows(self) -> list[list[tuple[int, float]]]:
        """Ids and confidences of each row, read by one copy from the device."""
        both = torch.stack(
            (self.ids.double(), self.confidences.double()), 2
        )  # holds any id exactly
        return [[(int(token), value) for token, value in row] for row in both.tolist()]


class Visit(NamedTuple):
    """A node of a draft that the target reached and whose children were drafted."""

    confidences: Sequence[float]
    """Of its children, the likeliest first."""
    emitted: int | None
    """Which of them the target emitted; None if none."""


@dataclass
class Draft:
    """A tree of tokens that may follow a text, in the draft's vocabulary."""

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """As in ``Tree``."""
    confidences: list[float] = field(default_factory=list)
    """Estimated probability that the target emits each token, given that it emits those before."""
    distributions: dict[int, torch.Tensor] = field(default_factory=dict)
    """The draft's distribution ``[1, V]`` after a node or ``TEXT``, for methods that use it."""
    limit: int = 1_000_000
    """The deepest level wanted; 0 for no draft."""
    special_ids: Collection[int] = ()
    """Ids that end a path."""
    expanded: set[int] = field(default_factory=set)
    """Nodes, ``TEXT`` among them, that the draft has been read after."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tree(self) -> Tree:
        return Tree(self.ids, self.parents)

    @property
    def probs(self) -> list[torch.Tensor]:
        """The distributions that the tokens of a chain were drawn from, each ``[1, V]``.

        None of them if the method uses none, or the source of the draft has none.
        """
        return [self.distributions[node] for node in self.parents if node in self.distributions]

    def extend(self, ids: Sequence[int], parent: int | None = None) -> None:
        """Append a chain of tokens of which the drafter is certain.

        Args:
            ids: in the draft's vocabulary.
            parent: the node that they follow; by default the last one.
        """
        for token in ids:
            parent = len(self) - 1 if parent is None else parent
            self._append(token, parent, 1.0)
            parent = None

    def take(self, node: int, candidates: Sequence[tuple[int, float]]) -> None:
        """Append candidates, with their confidences, as children of a node or of ``TEXT``."""
        self.expanded.add(node)
        for rank, (token, confidence) in enumerate(candidates):
            if token >= 0:
                self._append(token, node, confidence)
            elif token != NOTHING and rank == 0:
                raise ValueError(
                    "Draft.take: the draft's scores hold NaN or +inf, or none that is finite"
                )

    def _append(self, token: int, parent: int, confidence: float) -> None:
        self.ids.append(token)
        self.parents.append(parent)
        self.confidences.append(confidence)

    def open_nodes(self) -> list[int]:
        """Nodes whose children may be drafted and have not been."""
        return [
            node
            for node, depth in enumerate(self.tree.depths)
            if depth < self.limit
            and node not in self.expanded
            and self.ids[node] not in self.special_ids
        ]

    def along(self, data: bytes, vocabulary: Vocabulary) -> list[int]:
        """Nodes of the longest path whose tokens spell a beginning of ``data``."""
        best: list[int] = []
        reached: dict[int, tuple[int, list[int]]] = {TEXT: (0, best)}
        longest = 0
        for node, (token, parent) in enumerate(zip(self.ids, self.parents, strict=True)):
            if parent not in reached or token in self.special_ids:
                continue
            offset, path = reached[parent]
            piece = vocabulary.token_bytes(token)
            if data[offset : offset + len(piece)] == piece:
                reached[node] = offset + len(piece), [*path, node]
                if offset + len(piece) > longest:
                    longest, best = reached[node]
        return best

    def visits(self, data: bytes, vocabulary: Vocabulary) -> Iterator[Visit]:
        """What became of the nodes along the bytes that the target emitted.

        Whether a child that ``data`` only begins is emitted is not known yet, so there is no visit.
        """
        path = self.along(data, vocabulary)
        for node, onward in zip([TEXT, *path], [*path, None], strict=True):
            children = [child for child, parent in enumerate(self.parents) if parent == node]
            spelled = [vocabulary.token_bytes(self.ids[child]) for child in children]
            if onward is not None:
                yield Visit([self.confidences[c] for c in children], children.index(onward))
                data = data[len(vocabulary.token_bytes(self.ids[onward])) :]
            elif children and not any(piece.startswith(data) for piece in spelled):
                yield Visit([self.confidences[c] for c in children], None)

    def keep_valid(self, vocabulary: Vocabulary) -> None:
        """Forget everything from the first token on that ``check`` would raise for."""
        for node, token in enumerate(self.ids):
            if not hasattr(token, "__index__") or not 0 <= token < len(vocabulary):
                del self.ids[node:], self.parents[node:], self.confidences[node:]
                return

    def check(self, vocabulary: Vocabulary) -> None:
        """Raise for tokens that the drafter's vocabulary does not have."""
        for token in self.ids:
            if not hasattr(token, "__index__") or not 0 <= token < len(vocabulary):
                raise ValueError(
                    f"Draft.check: the draft holds {token!r}, which is none of its vocabulary's "
                    f"{len(vocabulary)} ids"
                )


class Asked(NamedTuple):
    """What a drafter is asked to continue, one for each text."""

    text: bytes
    """All bytes generated so far; they may end inside a UTF-8 character."""
    place: Place
    """Where the next token is drawn."""
    draft: Draft
    """Empty, to be filled."""


Choose = Callable[[torch.Tensor, Sequence[Place]], Candidates]
"""Picks what may be emitted at R places, given the draft's scores there, float ``[R, V]``."""

Grow = Callable[[Sequence[Draft]], list[list[int]]]
"""The nodes of each draft to draft children of; none at all if drafting does not pay any more."""


class Drafter(Protocol):
    """A source of proposals. It knows the texts so far, not how proposals are verified."""

    vocabulary: Vocabulary

    @property
    def forwards(self) -> int:
        """Forward passes so far."""

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        """Start on a new text, which comes last; ``warpers`` process its scores as the target's.

        They take ids and scores ``[R, V]``, depend on the scores alone, and ignore the ids.
        """

    def drop(self, index: int) -> None:
        """Forget a text; the last one takes its index."""

    def reset(self) -> None:
        """Forget all texts."""

    def propose(self, asked: Sequence[Asked], choose: Choose, grow: Grow) -> None:
        """Fill the draft of each text whose ``draft.limit`` is above 0.

        A drafter may stop before the limit, for a reason that was known before it drew the token
        at which it stops. After an error, here or in ``begin``, the target continues alone.

        Args:
            asked: one for each text, in the order of ``begin`` and ``drop``.
            choose: picks the candidates after each row.
            grow: asked after each level which nodes to draft children of.
        """


__all__ = ["NOTHING", "TEXT", "Asked", "Candidates", "Choose", "Draft", "Drafter", "Grow"]
