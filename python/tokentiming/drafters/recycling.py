"""Token Recycling: the target's own candidates of earlier passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tokentiming.drafters.base import Choose, Draft, DraftRequest, Grow
from tokentiming.scalars import integer
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.tree import TEXT
from tokentiming.tokens.vocabulary import Vocabulary

_IMPROBABLE = 0.02
"""Nodes whose path is less probable are not grown."""
_NO_IDS = torch.empty((1, 0), dtype=torch.int64)
"""Warpers ignore the ids."""


class Expected(NamedTuple):
    """What the target expected after a token."""

    ids: torch.Tensor
    """int64 ``[k]``."""
    log_probs: torch.Tensor
    """float32 ``[k]``."""
    mass: float
    """Sum of their probabilities."""


class RecyclingDrafter:
    """Proposes what the target expected when it last computed a row after the same token.

    The target's most probable tokens after a token are stored each time that it computes them, also
    after proposals that it rejects. A draft is a tree that follows these tokens, the most probable
    path first. No draft model is needed. What was stored is kept for later texts; ``save`` writes
    it to a file.

    A token after which something is stored takes about 1.5 kB, most of it for the objects that hold
    the candidates. Other tokens of the vocabulary take nothing.

    Args:
        candidates: stored tokens after each token.
        nodes: maximum number of tokens of a draft.
        depth: maximum number of levels of a draft.

    Raises:
        TypeError: one of them is not an integer.
        ValueError: one of them is below 1.

    Source: Token Recycling, arXiv 2408.08696.

    Example:
        >>> decoder = SpeculativeDecoder(target_model, target_tokenizer, RecyclingDrafter())
    """

    vocabulary = None  # drafts consist of the target's tokens
    forwards = 0

    def __init__(self, *, candidates: int = 8, nodes: int = 32, depth: int = 6) -> None:
        self._count = integer(candidates, "candidates", least=1, caller="RecyclingDrafter")
        self._nodes = integer(nodes, "nodes", least=1, caller="RecyclingDrafter")
        self._depth = integer(depth, "depth", least=1, caller="RecyclingDrafter")
        self._expected: dict[int, Expected] = {}
        self._warpers: list[Callable[..., Any]] = []  # of each text
        self._columns = 0  # of the target's logits
        self._fingerprint: str | None = None  # of the target's vocabulary

    def __len__(self) -> int:
        """Number of tokens after which something is stored."""
        return len(self._expected)

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        self._warpers.append(warpers)

    def drop(self, index: int) -> None:
        self._warpers[index] = self._warpers[-1]
        self._warpers.pop()

    def reset(self) -> None:
        """Forget all texts; what was stored remains for later ones."""
        self._warpers = []

    def learn(self, tokens: Sequence[int], logits: torch.Tensor) -> None:
        self._columns = logits.shape[1]
        log_probs, ids = torch.log_softmax(logits.float(), 1).topk(
            min(self._count, logits.shape[1]), 1
        )
        masses = log_probs.exp().sum(1).clamp(max=1.0).tolist()
        for token, *row in zip(tokens, ids.cpu(), log_probs.cpu(), masses, strict=True):
            self._expected[token] = Expected(*row)

    def propose(self, requests: Sequence[DraftRequest], choose: Choose, grow: Grow) -> None:
        wanted = [
            _Text(request, warpers)
            for request, warpers in zip(requests, self._warpers, strict=True)
            if request.draft.limit
        ]
        for text in wanted:
            self._check(text.request.vocabulary)
        rows = [(text, TEXT) for text in wanted if text.token(TEXT) in self._expected]
        for _ in range(self._depth):
            if not rows:
                return
            self._grow(rows, choose)
            rows = [(text, node) for text in wanted for node in self._open_nodes(text.draft)]

    def _check(self, vocabulary: Vocabulary) -> None:
        if self._fingerprint not in (None, vocabulary.fingerprint):
            raise ValueError(
                "RecyclingDrafter: what is stored is of another target's vocabulary; make a new "
                "RecyclingDrafter for this target"
            )
        self._fingerprint = vocabulary.fingerprint

    def _grow(self, rows: Sequence[tuple[_Text, int]], choose: Choose) -> None:
        """Draft the children of some nodes."""
        scores = torch.full((len(rows), self._columns), -torch.inf)
        masses = []
        for row, (text, node) in zip(scores, rows, strict=True):
            ids, log_probs, mass = self._expected[text.token(node)]
            row[ids] = text.warpers(_NO_IDS, log_probs[None])[0]
            masses.append(mass)
        found = choose(scores, [text.request.place_after(node) for text, node in rows]).rows()
        for (text, node), children, mass in zip(rows, found, masses, strict=True):
            remaining = self._nodes - len(text.draft)
            text.draft.take(node, [(token, value * mass) for token, value in children[:remaining]])

    def _open_nodes(self, draft: Draft) -> list[int]:
        """The nodes to grow next: the most probable ones, within the limit of nodes."""
        probs: list[float] = []
        for parent, confidence in zip(draft.parents, draft.confidences, strict=True):
            probs.append(confidence * (1.0 if parent == TEXT else probs[parent]))
        nodes = [
            node
            for node in draft.open_nodes()
            if probs[node] > _IMPROBABLE and draft.ids[node] in self._expected
        ]
        remaining = self._nodes - len(draft)  # each node takes several
        return sorted(sorted(nodes, key=lambda node: -probs[node])[: (remaining + 2) // 3])

    def save(self, path: str | PathLike[str]) -> None:
        """Write what is stored to a safetensors file.

        Raises:
            ValueError: nothing is stored yet.
        """
        if not self._expected:
            raise ValueError("RecyclingDrafter.save: nothing is stored; generate a text first")
        tensors = {
            "tokens": torch.tensor(list(self._expected)),
            "ids": torch.stack([row.ids for row in self._expected.values()]),
            "log_probs": torch.stack([row.log_probs for row in self._expected.values()]),
        }
        about = {"columns": str(self._columns), "fingerprint": self._fingerprint or ""}
        save_file(tensors, path, about)

    @classmethod
    def load(cls, path: str | PathLike[str], **options: int) -> RecyclingDrafter:
        """A drafter with what ``save`` wrote.

        Args:
            path: the file.
            **options: of the constructor.

        Raises:
            ValueError: the file is not one that ``save`` wrote.
        """
        drafter = cls(**options)
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if not {"columns", "fingerprint"} <= about.keys():
                raise ValueError(f"RecyclingDrafter.load: {path} was not written by save")
            stored = [file.get_tensor(name) for name in ("tokens", "ids", "log_probs")]
        drafter._columns = int(about["columns"])
        drafter._fingerprint = about["fingerprint"] or None
        for token, ids, log_probs in zip(stored[0].tolist(), *stored[1:], strict=True):
            mass = min(float(log_probs.exp().sum()), 1.0)
            drafter._expected[token] = Expected(ids, log_probs, mass)
        return drafter


class _Text(NamedTuple):
    """A text to draft for."""

    request: DraftRequest
    warpers: Callable[..., Any]

    @property
    def draft(self) -> Draft:
        return self.request.draft

    def token(self, node: int) -> int:
        """The token of a node, or the last one of the text."""
        return self.request.target_ids[-1] if node == TEXT else self.draft.ids[node]
