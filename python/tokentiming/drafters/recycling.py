"""Token Recycling: the target's own candidates of earlier passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from os import PathLike
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tokentiming.devices import send
from tokentiming.drafters.base import Choose, DraftRequest, Grow
from tokentiming.drafters.draft import Draft
from tokentiming.drafters.expected import Expected, most_probable
from tokentiming.scalars import integer
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.tree import TEXT
from tokentiming.tokens.vocabulary import Vocabulary

_IMPROBABLE = 0.02
"""Nodes whose path is less probable are not grown."""


class RecyclingDrafter:
    """Proposes what the target expected when it last computed a row after the same token.

    The target's most probable tokens after a token are stored each time that it computes them, also
    after proposals that it rejects. A draft is a tree that follows these tokens, the most probable
    path first. No draft model is needed. What was stored is kept for later texts; ``save`` writes
    it to a file.

    A token after which something is stored takes 68 to 102 bytes with 8 candidates, and each token
    of the vocabulary 4 bytes.

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
        self._expected: Expected | None = None  # before the first round
        self._warpers: list[Callable[..., Any]] = []  # of each text
        self._fingerprint: str | None = None  # of the target's vocabulary

    def __len__(self) -> int:
        """Number of tokens after which something is stored."""
        return 0 if self._expected is None else len(self._expected)

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        self._warpers.append(warpers)

    def drop(self, index: int) -> None:
        self._warpers[index] = self._warpers[-1]
        self._warpers.pop()

    def reset(self) -> None:
        """Forget all texts; what was stored remains for later ones."""
        self._warpers = []

    def learn(self, tokens: Sequence[int], logits: torch.Tensor) -> None:
        if self._expected is None:
            self._expected = Expected(logits.shape[1], self._count)
        if self._expected.columns != logits.shape[1]:
            raise _other_vocabulary()
        last = {token: row for row, token in enumerate(tokens)}  # an earlier row is replaced
        if len(last) < len(tokens):
            rows = torch.tensor(list(last.values()), device="cpu")
            logits = logits[send(rows, logits.device)]
        self._expected.store(list(last), *most_probable(logits, self._expected.count))

    def propose(self, requests: Sequence[DraftRequest], choose: Choose, grow: Grow) -> None:
        wanted = [
            _Text(request, warpers)
            for request, warpers in zip(requests, self._warpers, strict=True)
            if request.draft.limit
        ]
        for text in wanted:
            self._check(text.request.vocabulary)
        if self._expected is None:
            return
        rows = [(text, TEXT) for text in wanted if text.token(TEXT) in self._expected]
        for _ in range(self._depth):
            if not rows:
                return
            self._grow(self._expected, rows, choose)
            rows = [
                (text, node)
                for text in wanted
                for node in self._open_nodes(self._expected, text.draft)
            ]

    def _check(self, vocabulary: Vocabulary) -> None:
        if self._fingerprint not in (None, vocabulary.fingerprint):
            raise _other_vocabulary()
        self._fingerprint = vocabulary.fingerprint

    def _grow(self, expected: Expected, rows: Sequence[tuple[_Text, int]], choose: Choose) -> None:
        """Draft the children of some nodes, given text by text."""
        ids, log_probs = expected.after([text.token(node) for text, node in rows])
        masses = log_probs.exp().sum(1).clamp(max=1.0).tolist()
        of_texts = [len(list(run)) for _, run in groupby(rows, lambda row: id(row[0]))]
        firsts = accumulate(of_texts, initial=0)
        warped = [
            rows[first][0].warp(part)
            for first, part in zip(firsts, torch.split(log_probs, of_texts), strict=False)
        ]
        tokens, columns = torch.unique(ids, return_inverse=True)
        scores = torch.full((len(rows), len(tokens)), -torch.inf)
        scores.scatter_(1, columns, torch.cat(warped))
        places = [text.request.place_after(node) for text, node in rows]
        found = choose(scores, places, tokens).rows()
        for (text, node), children, mass in zip(rows, found, masses, strict=True):
            size = len(text.request.vocabulary)  # a wider head has ids that spell nothing
            known = [(token, value * mass) for token, value in children if token < size]
            text.draft.take(node, known[: self._nodes - len(text.draft)])

    def _open_nodes(self, expected: Expected, draft: Draft) -> list[int]:
        """The nodes to grow next: the most probable ones, within the limit of nodes."""
        probs: list[float] = []
        for parent, confidence in zip(draft.parents, draft.confidences, strict=True):
            probs.append(confidence * (1.0 if parent == TEXT else probs[parent]))
        nodes = [
            node
            for node in draft.open_nodes()
            if probs[node] > _IMPROBABLE and draft.ids[node] in expected
        ]
        remaining = self._nodes - len(draft)  # each node takes several
        return sorted(sorted(nodes, key=lambda node: -probs[node])[: (remaining + 2) // 3])

    def save(self, path: str | PathLike[str]) -> None:
        """Write what is stored to a safetensors file.

        Raises:
            ValueError: nothing is stored yet.
        """
        if self._expected is None:
            raise ValueError("RecyclingDrafter.save: nothing is stored; generate a text first")
        names = ("tokens", "ids", "log_probs")
        tensors = dict(zip(names, self._expected.all(), strict=True))
        columns = str(self._expected.columns)
        about = {"columns": columns, "fingerprint": self._fingerprint or ""}
        save_file(tensors, path, about)

    @classmethod
    def load(cls, path: str | PathLike[str], **options: int) -> RecyclingDrafter:
        """A drafter with what ``save`` wrote.

        Args:
            path: the file.
            **options: ``nodes`` and ``depth`` of the constructor; ``candidates`` is the file's.

        Raises:
            TypeError: ``candidates`` is given.
            ValueError: the file is not one that ``save`` wrote.
            OSError: the file cannot be read.
        """
        if "candidates" in options:
            raise TypeError("RecyclingDrafter.load: candidates are the file's; leave it out")
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                columns, fingerprint = int(about["columns"]), about["fingerprint"]
                tokens, ids, log_probs = map(file.get_tensor, ("tokens", "ids", "log_probs"))
            valid = _is_table(columns, tokens, ids, log_probs)
        except (KeyError, ValueError, SafetensorError) as error:
            raise ValueError(f"RecyclingDrafter.load: {path} was not written by save") from error
        if not valid:
            raise ValueError(f"RecyclingDrafter.load: {path} holds other values than save writes")
        drafter = cls(candidates=ids.shape[1], **options)
        drafter._fingerprint = fingerprint or None
        drafter._expected = Expected(columns, ids.shape[1])
        drafter._expected.store(tokens.tolist(), ids, log_probs)
        return drafter


def _other_vocabulary() -> ValueError:
    return ValueError(
        "RecyclingDrafter: what is stored is of another target's vocabulary; make a new "
        "RecyclingDrafter for this target"
    )


def _is_table(
    columns: int, tokens: torch.Tensor, ids: torch.Tensor, log_probs: torch.Tensor
) -> bool:
    """Whether these are tensors of ``Expected.all`` for so many columns."""
    if ids.dim() != 2 or ids.shape != log_probs.shape or tokens.shape != ids.shape[:1]:
        return False
    if {tokens.dtype, ids.dtype} != {torch.int64} or log_probs.dtype != torch.float32:
        return False
    in_range = all(bool(((part >= 0) & (part < columns)).all()) for part in (tokens, ids))
    return 1 <= ids.shape[1] <= columns and in_range and len(set(tokens.tolist())) == len(tokens)


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

    def warp(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``[R, k]`` as the text's processors change them, which ignore the ids."""
        warped: torch.Tensor = self.warpers(
            torch.empty((len(scores), 0), dtype=torch.int64), scores
        )
        return warped
