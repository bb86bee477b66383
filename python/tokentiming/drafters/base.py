"""The interface of drafters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from tokentiming.noise import Place
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.tree import TEXT, Tree
from tokentiming.tokens.vocabulary import Vocabulary

NO_TOKEN = -2
"""Token id of a draw that found no token."""


class Candidates(NamedTuple):
    """Tokens that may follow each of R rows, the likeliest first, on the device of the scores."""

    ids: torch.Tensor
    """int64 ``[R, k]``; negative where there is no candidate."""
    confidences: torch.Tensor
    """Estimated probability that the target emits each of them, float ``[R, k]``. It affects which
    tokens are proposed, but not the emitted distribution."""
    distributions: torch.Tensor | None = None
    """The draft's distributions, float ``[R, V]``, for methods that use them."""

    def of_columns(self, tokens: torch.Tensor) -> Candidates:
        """The candidates if their ids are columns of these tokens, int64 ``[C]``."""
        ids = torch.where(self.ids < 0, self.ids, tokens[self.ids.clamp(min=0)])
        return self._replace(ids=ids)

    def rows(self) -> list[list[tuple[int, float]]]:
        """Ids and confidences of each row, copied from the device at once."""
        both = torch.stack(
            (self.ids.double(), self.confidences.double()), 2
        )  # float64 holds any id exactly
        return [[(int(token), value) for token, value in row] for row in both.tolist()]


class Visit(NamedTuple):
    """A node of a draft that the target reached and whose children were drafted."""

    confidences: Sequence[float]
    """Confidences of its children, the likeliest first."""
    emitted: int | None
    """Index of the child that the target emitted; None if it emitted none of them."""
    depth: int = 0
    """Number of drafted tokens before its children."""


@dataclass
class Draft:
    """A tree of tokens that may follow a text, in the draft's vocabulary."""

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """As in ``Tree``."""
    confidences: list[float] = field(default_factory=list)
    """Estimated probability that the target emits each token, given that it emits its ancestors."""
    distributions: dict[int, torch.Tensor] = field(default_factory=dict)
    """The draft's distribution ``[1, V]`` after a node or ``TEXT``, for methods that use it."""
    limit: int = 1_000_000
    """The deepest level wanted; 0 for no draft. A level is a token of a model; a drafter of smaller
    tokens counts several of them as one level."""
    candidates: int = 1_000_000
    """Maximum number of children of a node; 1 for a chain."""
    special_ids: Collection[int] = ()
    """Ids that end a path."""
    expanded: set[int] = field(default_factory=set)
    """Nodes, or ``TEXT``, whose children have been drafted."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tree(self) -> Tree:
        return Tree(self.ids, self.parents)

    @property
    def probs(self) -> list[torch.Tensor]:
        """The distributions that the tokens of a chain were drawn from, each ``[1, V]``.

        The list is empty if the method uses no distributions or the drafter has none.
        """
        return [self.distributions[node] for node in self.parents if node in self.distributions]

    def extend(self, ids: Sequence[int], parent: int | None = None) -> None:
        """Append a chain of tokens with confidence 1.

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
            elif token != NO_TOKEN and rank == 0:
                raise ValueError(
                    "Draft.take: the draft's scores hold NaN or +inf, or none that is finite"
                )

    def _append(self, token: int, parent: int, confidence: float) -> None:
        self.ids.append(token)
        self.parents.append(parent)
        self.confidences.append(confidence)

    def open_nodes(self) -> list[int]:
        """Nodes whose children can still be drafted."""
        return [
            node
            for node, depth in enumerate(self.tree.depths)
            if depth < self.limit
            and node not in self.expanded
            and self.ids[node] not in self.special_ids
        ]

    def along(self, data: bytes, vocabulary: Vocabulary) -> list[int]:
        """Nodes of the longest path whose tokens spell a prefix of ``data``."""
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
        """The nodes along the bytes that the target emitted, and which child it emitted of each.

        A node is left out if ``data`` ends inside one of its children: whether the target emits
        that child is not known yet.
        """
        path = self.along(data, vocabulary)
        for depth, (node, onward) in enumerate(zip([TEXT, *path], [*path, None], strict=True)):
            children = [child for child, parent in enumerate(self.parents) if parent == node]
            spelled = [vocabulary.token_bytes(self.ids[child]) for child in children]
            if onward is not None:
                yield Visit([self.confidences[c] for c in children], children.index(onward), depth)
                data = data[len(vocabulary.token_bytes(self.ids[onward])) :]
            elif children and not any(piece.startswith(data) for piece in spelled):
                yield Visit([self.confidences[c] for c in children], None, depth)

    def check(self, vocabulary: Vocabulary) -> None:
        """Refuse what is not a tree of tokens of the drafter's vocabulary, and keep what is.

        Raises:
            ValueError: what is wrong with the first node that is refused. It and all nodes after
                it are forgotten.
        """
        nodes = zip(self.ids, self.parents, self.confidences, strict=False)
        wrong = None
        for node, (token, parent, confidence) in enumerate(nodes):
            wrong = _fault(node, token, parent, confidence, len(vocabulary))
            if wrong:
                self._forget(node)
                break
        shortest = min(len(self.ids), len(self.parents), len(self.confidences))
        if not wrong and max(len(self.ids), len(self.parents), len(self.confidences)) > shortest:
            wrong = "ids, parents and confidences differ in length"
            self._forget(shortest)
        if not wrong and self.distributions and len(self.probs) < len(self.ids):
            wrong = "some nodes were drawn from a distribution and others were not"
            self._forget(0)
        if wrong:
            raise ValueError(f"Draft.check: {wrong}")

    def _forget(self, node: int) -> None:
        del self.ids[node:], self.parents[node:], self.confidences[node:]


def _fault(node: int, token: Any, parent: Any, confidence: float, size: int) -> str | None:
    """What is wrong with a node of a draft, or None."""
    if not hasattr(token, "__index__") or not 0 <= token < size:
        return f"the draft holds {token!r}, which is not an id of its vocabulary (0..{size - 1})"
    if not hasattr(parent, "__index__") or not TEXT <= parent < node:
        return f"node {node} has the parent {parent!r}; give an earlier node, or TEXT"
    if not 0 <= confidence <= 1:
        return f"node {node} has the confidence {confidence!r}; give a probability"
    return None


class DraftRequest(NamedTuple):
    """A request to draft for one text."""

    text: bytes
    """All bytes generated so far; they may end inside a UTF-8 character."""
    place: Place
    """Where the next token is drawn."""
    draft: Draft
    """The draft to fill; it starts empty."""
    vocabulary: Vocabulary
    """The draft's."""
    target_ids: Sequence[int] = ()
    """Prompt and text in the target's tokens."""

    def place_after(self, node: int) -> Place:
        """Where the token that follows a node of the draft, or ``TEXT``, is drawn."""
        state = self.place.state
        for ancestor in self.draft.tree.path(node):
            state = state.after(self.vocabulary.token_bytes(self.draft.ids[ancestor]))
        return Place(self.place.noise, state)


class Choose(Protocol):
    """Picks candidates at R places."""

    def __call__(
        self, scores: torch.Tensor, places: Sequence[Place], tokens: torch.Tensor | None = None
    ) -> Candidates:
        """Pick candidates, given the draft's scores.

        Args:
            scores: float ``[R, V]``, or ``[R, C]`` of some tokens.
            places: where each row's token is drawn.
            tokens: the ids of the C columns, int64 ``[C]``, ascending. All others are impossible.
        """


Grow = Callable[[Sequence[Draft]], list[list[int]]]
"""Chooses the nodes of each draft to grow, given the drafts of all requests in their order; none at
all if drafting no longer pays."""


class Drafter(Protocol):
    """A source of proposals. It knows the texts so far, not how proposals are verified."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Of its drafts; None if they consist of the target's own tokens."""

    @property
    def forwards(self) -> int:
        """Forward passes so far."""

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        """Add a new text, with the last index.

        ``warpers`` process the draft's scores like the target's. They take ids, which they ignore,
        and scores ``[R, V]``.
        """

    def drop(self, index: int) -> None:
        """Forget a text; the last one takes its index."""

    def reset(self) -> None:
        """Forget all texts."""

    def propose(self, requests: Sequence[DraftRequest], choose: Choose, grow: Grow) -> None:
        """Fill the draft of each text whose ``draft.limit`` is above 0.

        A drafter may stop before the limit, but it must decide whether to propose a token before it
        draws the token. After an error, here or in ``begin``, the target continues alone.

        Args:
            requests: one for each text, in the order of ``begin`` and ``drop``.
            choose: picks the candidates after each row.
            grow: called after each level, with the drafts of all requests; chooses the nodes to
                grow.
        """


@runtime_checkable
class Learner(Protocol):
    """A drafter that learns from the rows that the target computes, rejected ones included."""

    def learn(self, tokens: Sequence[int], logits: torch.Tensor) -> None:
        """Observe what the target expects after each of R tokens.

        A call shows one text of a round, or all of them one after another.

        Args:
            tokens: target ids: the last token of a text, then those that were proposed.
            logits: ``[R, V]`` on the target's device, without processors.
        """


__all__ = [
    "NO_TOKEN",
    "TEXT",
    "Candidates",
    "Choose",
    "Draft",
    "DraftRequest",
    "Drafter",
    "Grow",
    "Learner",
]
