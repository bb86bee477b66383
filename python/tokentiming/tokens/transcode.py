"""Conversion between the draft's and the target's tokens through their bytes."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from tokentiming.tokens.tree import TEXT, Tree
from tokentiming.tokens.vocabulary import Vocabulary

LOOKBACK = 4
"""Tokens re-encoded before a change, so that a word that begins there gets its usual encoding."""

_WORDS = re.compile(rb"\s*\S+|\s+")


def unfinished(data: bytes) -> int:
    """Number of bytes at the end of ``data`` that belong to an incomplete UTF-8 character."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < length else 0
    return 0


def proxies(
    drafted: Tree, confidences: Sequence[float], draft: Vocabulary, target: Vocabulary
) -> tuple[Tree, list[float]]:
    """Re-encode each path of a tree of drafted tokens in the target's vocabulary.

    Paths that begin with the same target tokens share their nodes. A UTF-8 character that the
    draft left incomplete is not proposed; an end of turn becomes the target's own. Between equal
    vocabularies all tokens stay the same.

    Args:
        drafted: ids of the draft's vocabulary; special ones are leaves.
        confidences: of each node, given its parent.
        draft: vocabulary of ``drafted``.
        target: vocabulary of the result.

    Returns:
        The tree, the likeliest path first, and the estimated probability of the path to each node,
        which is that of the drafted token that contains the node's last byte.
    """
    reached: list[float] = []
    for parent, confidence in zip(drafted.parents, confidences, strict=True):
        reached.append(confidence * (1.0 if parent == TEXT else reached[parent]))
    inner = set(drafted.parents)
    leaves = [node for node in range(len(drafted)) if node not in inner]
    leaves.sort(key=lambda leaf: -reached[leaf])
    paths = [drafted.path(leaf) for leaf in leaves]
    merged: dict[tuple[int, int], int] = {}
    estimates: list[float] = []
    for path, spelled in zip(paths, _spelled(paths, drafted, draft, target), strict=True):
        node = TEXT
        estimated = _estimated(path, spelled, reached, drafted, draft, target)
        for token, estimate in zip(spelled, estimated, strict=True):
            edge = (node, token)
            node = merged.setdefault(edge, len(merged))
            if node == len(estimates):
                estimates.append(estimate)
            estimates[node] = max(estimates[node], estimate)
    return Tree([token for _, token in merged], [parent for parent, _ in merged]), estimates


def _spelled(
    paths: Sequence[Sequence[int]], drafted: Tree, draft: Vocabulary, target: Vocabulary
) -> list[list[int]]:
    """Each path in the target's tokens."""
    drawn = [[drafted.tokens[node] for node in path] for path in paths]
    if draft.fingerprint == target.fingerprint:
        return drawn
    texts = [draft.decode([i for i in ids if i not in draft.special_ids]) for ids in drawn]
    spelled = target.encode_all([data[: len(data) - unfinished(data)] for data in texts])
    end = list(target.eos_ids[:1])
    return [
        ids + end if path[-1] in draft.eos_ids else ids
        for path, ids in zip(drawn, spelled, strict=True)
    ]


def _estimated(
    path: Sequence[int],
    spelled: Sequence[int],
    reached: Sequence[float],
    drafted: Tree,
    draft: Vocabulary,
    target: Vocabulary,
) -> Iterator[float]:
    """For each target token of a path, the estimate of the drafted token in which it ends."""
    ends = list(accumulate(len(draft.token_bytes(drafted.tokens[node])) for node in path))
    offset = 0
    for token in spelled:
        data = target.token_bytes(token)
        offset += len(data)
        covered = bisect_left(ends, offset) if data else len(path) - 1
        yield reached[path[min(covered, len(path) - 1)]]


class Context:
    """A growing text in the tokens of one vocabulary.

    A draft model's cache holds its own tokenization of what it drafted. Keeping these tokens saves
    recomputing them. Only the end of the text is read, so the cost does not grow with its length.

    Attributes:
        ids: tokens that spell the text, and what was drafted after it.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.ids: list[int] = []
        self._vocabulary = vocabulary
        self._starts: list[int] = []  # offset in the text at which each token begins
        self._end = 0  # offset after the last token
        self._followed = 0  # length of the text that the tokens are known to spell

    def extend(self, ids: Sequence[int]) -> None:
        """Append drafted tokens, which the text may later contradict."""
        for token in ids:
            self.ids.append(token)
            self._starts.append(self._end)
            self._end += len(self._vocabulary.token_bytes(token))

    def follow(self, text: bytes) -> list[int]:
        """Tokens that spell ``text``, which must begin with the text of the last call.

        Tokens are kept up to shortly before the first difference. If the vocabulary cannot
        express a word, they are its nearest encoding.
        """
        kept = bisect_left(self._starts, self._followed)
        offset = self._followed
        while kept < len(self.ids):
            piece = self._vocabulary.token_bytes(self.ids[kept])
            if text[offset : offset + len(piece)] != piece:
                break
            offset += len(piece)
            kept += 1
        if kept < len(self.ids) or offset < len(text):
            self._respell(text, max(kept - LOOKBACK, 0))
        self._followed = len(text)
        return self.ids

    def _respell(self, text: bytes, kept: int) -> None:
        """Re-encode what follows the first ``kept`` tokens, or fewer if they end inside a word."""
        starts = self._starts
        while kept and (starts[kept] == starts[kept - 1] or _inside_character(text, starts[kept])):
            kept -= 1
        offset = starts[kept] if kept else 0
        del self.ids[kept:], self._starts[kept:]
        self._end = offset
        ids = self._vocabulary.encode(text[offset:])
        if self._vocabulary.decode(ids) == text[offset:]:
            self.extend(ids)
            return
        for word in _WORDS.finditer(text, offset):  # the bytes of single tokens are not known here
            ids = self._vocabulary.encode(word.group())
            self.ids += ids
            self._starts += [word.start()] * len(ids)
        self._end = len(text)


def _inside_character(data: bytes, offset: int) -> bool:
    return 0x80 <= data[offset] < 0xC0
