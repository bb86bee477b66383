"""Vocabularies and maps between them as the operations take them."""

from __future__ import annotations

from tokentiming._core import ByteTable, VocabularyMap

__all__ = ["ByteTable", "VocabularyMap"]

ByteTable.__doc__ = """A vocabulary as a table ``id -> bytes``.

Token ``id`` is ``bytes[offsets[id]:offsets[id + 1]]``. The tensors are checked once, here, and
borrowed: do not resize them while the table is in use. ``len()`` is the number of tokens.
``to(device)`` returns the table in the memory of a device, or the table itself if it is already
there. Tables can be copied and pickled.

Args:
    bytes: uint8 ``[N]``, contiguous: the bytes of all tokens, end to end.
    offsets: int64 ``[V + 1]``, contiguous, non-decreasing from 0 to at most N.

Attributes:
    bytes: the given tensor, or a torch tensor that shares its memory if it is of another library.
    offsets: likewise.

Raises:
    TypeError: an argument is not a tensor or has another dtype.
    ValueError: a tensor has another shape, is not contiguous, or is on another device than the
        other; or offsets are malformed. On a GPU values are not read.

>>> table = ByteTable(torch.tensor(list(b"abc"), dtype=torch.uint8), torch.tensor([0, 1, 3]))
>>> len(table), table.offsets
(2, tensor([0, 1, 3]))
>>> table.to("cpu") is table
True
"""
VocabularyMap.__doc__ = """How the target's vocabulary spells each token of the draft's.

The bytes of draft token ``d``, encoded by the target's tokenizer, are the target tokens
``expansion_ids[expansion_offsets[d]:expansion_offsets[d + 1]]``. The tensors are checked once,
here, and borrowed: do not resize them, nor change them on a GPU, while the map is in use.
``len()`` is D. Maps can be copied and pickled.

``to(device)`` returns the map in the memory of a device, or the map itself if it is already there.
On a GPU the map also holds the inverses of ``exact`` and ``first``; making them synchronizes with
the device.

Args:
    exact: int32 ``[D]``, contiguous: the target token with the bytes of each draft token, or -1.
    first: int32 ``[D]``, contiguous: the first token of each expansion, or -1 where it is empty.
    expansion_offsets: int64 ``[D + 1]``, contiguous, non-decreasing from 0 to at most E.
    expansion_ids: int32 ``[E]``, contiguous: all expansions, end to end.

Attributes:
    exact: the given tensor, or a torch tensor that shares its memory if it is of another library.
    first: likewise.
    expansion_offsets: likewise.
    expansion_ids: likewise.

Raises:
    TypeError: an argument is not a tensor or has another dtype.
    ValueError: shapes disagree, a tensor is not contiguous or on another device than the others, or
        offsets are malformed. On a GPU values are not read.

Token 0 has a counterpart, token 1 is spelled by two tokens, token 2 not at all:

>>> exact = torch.tensor([0, -1, -1], dtype=torch.int32)
>>> first = torch.tensor([0, 1, -1], dtype=torch.int32)
>>> expansion_ids = torch.tensor([0, 1, 2], dtype=torch.int32)
>>> vocabulary_map = VocabularyMap(exact, first, torch.tensor([0, 1, 3, 3]), expansion_ids)
>>> len(vocabulary_map), vocabulary_map.to("cpu") is vocabulary_map
(3, True)
"""
