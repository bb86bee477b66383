"""From the draft's tokens to the target's and back, through their bytes."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

from tokentiming.tokens.vocabulary import Vocabulary

LOOKBACK = 4
"""Tokens re-encoded before a change, so that a word begun there gets its usual spelling."""

_WORDS = re.compile(rb"\s*\S+|\s+")


def unfinished(data: bytes) -> int:
    """How many bytes at the end of ``data`` begin a UTF-8 character and do not finish it."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < length else 0
    return 0


def proxies(
    draft_ids: Sequence[int], special: int | None, draft: Vocabulary, target: Vocabulary
) -> list[int]:
    """Re-encode drafted tokens into the target's.

    A UTF-8 character that the draft left unfinished is not proposed; a draft that ends its turn
    proposes the target's own end of turn. Between equal vocabularies all tokens stay as they are.

    Args:
        draft_ids: drafted ids, none of them special.
        special: the special id that ended the draft, if one did.
        draft: vocabulary of ``draft_ids`` and ``special``.
        target: vocabulary of the result.
    """
    if draft.fingerprint == target.fingerprint:
        return [*draft_ids] if special is None else [*draft_ids, special]
    data = draft.decode(draft_ids)
    ids = target.encode(data[: len(data) - unfinished(data)])
    return ids + list(target.eos_ids[:1]) if special in draft.eos_ids else ids


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
        self._end = 0  # offset behind the last token
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
