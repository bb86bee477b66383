"""From the draft's tokens to the target's and back, by way of their bytes."""

from __future__ import annotations

from collections.abc import Sequence

from tokentiming.vocabulary import Vocabulary

LOOKBACK = 4
"""Tokens re-encoded before a change, so that a word begun there gets its usual spelling."""


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
        special: the special id that the draft went on to draw, if it did.
        draft: vocabulary of ``draft_ids`` and ``special``.
        target: vocabulary of the result.
    """
    if draft.fingerprint == target.fingerprint:
        return [*draft_ids] if special is None else [*draft_ids, special]
    data = draft.decode(draft_ids)
    ids = target.encode(data[: len(data) - unfinished(data)])
    return ids + list(target.eos_ids[:1]) if special in draft.eos_ids else ids


def follow(ids: list[int], data: bytes, vocabulary: Vocabulary) -> list[int]:
    """Tokens that spell ``data``, those of ``ids`` kept up to shortly before the first difference.

    A draft model's cache holds its own spelling of what it drafted; keeping that spelling spares a
    new pass over it.

    Args:
        ids: tokens of an earlier state of the same text.
        data: all bytes generated so far.
        vocabulary: vocabulary of ``ids`` and of the result.
    """
    kept, offset = 0, 0
    starts = []
    for i in ids:
        piece = vocabulary.token_bytes(i)
        if data[offset : offset + len(piece)] != piece:
            break
        starts.append(offset)
        offset += len(piece)
        kept += 1
    if kept == len(ids) and offset == len(data):
        return ids
    kept = max(kept - LOOKBACK, 0)
    while kept and _inside_character(data, starts[kept]):
        kept -= 1
    return ids[:kept] + vocabulary.encode(data[starts[kept] :] if kept else data)


def _inside_character(data: bytes, offset: int) -> bool:
    return 0x80 <= data[offset] < 0xC0
