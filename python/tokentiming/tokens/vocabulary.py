"""A vocabulary as bytes: the common representation of any two tokenizers."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tokentiming import ops
from tokentiming.scalars import type_of
from tokentiming.tokens import byte_tables

logger = logging.getLogger(__name__)

_UNDECODABLE = re.compile("[\udc80-\udcff]")
_MOSTLY = 0.9
"""Minimum share of a tokenizer's tokens for which its own model has embedding rows."""
_BATCH = 1 << 14
"""Pieces encoded at a time: each encoding takes a kilobyte."""


class TokenTable(NamedTuple):
    """The tensors of a ``Vocabulary`` that the operations take, on one device."""

    table: ops.ByteTable
    keys: torch.Tensor
    advances: torch.Tensor


class Vocabulary:
    """The bytes, roles and noise keys of every token id of one tokenizer.

    A token marked special has no bytes; every other token, added ones included, has the bytes
    that it stands for in generated text.

    Attributes:
        bytes: uint8 tensor ``[N]``, the bytes of all tokens, one after another.
        offsets: int64 tensor ``[V + 1]``; token ``i`` is ``bytes[offsets[i]:offsets[i + 1]]``.
        table: ``bytes`` and ``offsets`` as an ``ops.ByteTable`` in CPU memory.
        keys: int64 tensor ``[V]``, the 64-bit keys of the shared noise (bit patterns).
        eos_ids: ids that end a turn; the first one is used in proposals.
        special_ids: ids without bytes: special tokens and holes in the numbering.
    """

    def __init__(
        self,
        table: Sequence[bytes],
        *,
        encoder: Tokenizer,
        eos_ids: Sequence[int] = (),
        special_ids: Iterable[int] = (),
        byte_ids: Sequence[int | None] = (None,) * 256,
    ) -> None:
        self._tokens = list(table)
        self._encoder = encoder
        self.eos_ids = tuple(eos_ids)
        self.special_ids = frozenset(special_ids)
        self.byte_ids = tuple(byte_ids)
        lengths = torch.tensor([0, *map(len, self._tokens)], device="cpu")
        self.offsets = torch.cumsum(lengths, 0)
        self.bytes = torch.frombuffer(bytearray(b"".join(self._tokens) or b"\0"), dtype=torch.uint8)
        self.table = ops.ByteTable(self.bytes, self.offsets)

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: Any,
        *,
        eos_token_ids: int | Sequence[int] | None = None,
        rows: int | None = None,
    ) -> Vocabulary:
        """Read the byte table of a tokenizer, which is not changed.

        Args:
            tokenizer: a transformers tokenizer backed by the ``tokenizers`` library, or a
                ``tokenizers.Tokenizer`` itself.
            eos_token_ids: the model's end-of-turn ids, usually ``generation_config.eos_token_id``;
                by default the tokenizer's own.
            rows: number of rows of the model's embedding. Tokens beyond it, which were added only
                to the tokenizer and which the model cannot read, are left out.

        Raises:
            TypeError: the tokenizer is not backed by the ``tokenizers`` library.
            ValueError: its decoder is of a kind whose bytes are not known.
        """
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, Tokenizer):
            raise TypeError(
                f"Vocabulary.from_tokenizer: tokenizer is {type_of(tokenizer)}, which the "
                "`tokenizers` library does not serve; load its fast version (AutoTokenizer)"
            )
        if eos_token_ids is None:
            eos_token_ids = getattr(tokenizer, "eos_token_id", None)
        eos_ids = [eos_token_ids] if isinstance(eos_token_ids, int) else list(eos_token_ids or ())

        pieces = backend.get_vocab(with_added_tokens=True)
        if rows is not None:
            known = {piece: i for piece, i in pieces.items() if i < rows}
            if len(known) < _MOSTLY * len(pieces):
                logger.warning(
                    "Vocabulary.from_tokenizer: the tokenizer has %d tokens and the model %d rows; "
                    "make sure that they belong together",
                    len(pieces),
                    rows,
                )
            pieces = known
        size = max(pieces.values(), default=-1) + 1
        if rows is not None:  # a model's config may name ids that its tokenizer does not have
            eos_ids = [token for token in eos_ids if 0 <= token < size]
        for token in eos_ids:
            if not 0 <= token < size:
                raise ValueError(
                    f"Vocabulary.from_tokenizer: eos_token_ids holds {token}, outside 0..{size - 1}"
                )
        kind = byte_tables.kind_of(backend)
        added = backend.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special and i < size} | set(eos_ids)
        table = [b""] * size
        for piece, i in pieces.items():
            if i not in special:
                table[i] = kind.token_bytes(piece, added=i in added)
        holes = set(range(size)) - set(pieces.values())
        return cls(
            table,
            encoder=kind.encoder(backend),
            eos_ids=eos_ids,
            special_ids=special | holes,
            byte_ids=[pieces.get(piece) for piece in kind.byte_pieces] or (None,) * 256,
        )

    @classmethod
    def of_bytes(cls) -> Vocabulary:
        """The vocabulary of the 256 bytes: the id of a byte is its value. It has no special token.

        >>> Vocabulary.of_bytes().encode(bytes([97, 255]))
        [97, 255]
        """
        pieces = byte_tables.ByteLevel().byte_pieces
        tokenizer = Tokenizer(models.BPE({piece: byte for byte, piece in enumerate(pieces)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        return cls.from_tokenizer(tokenizer)

    def on(self, device: torch.device | str) -> TokenTable:
        """The byte table, keys and advances in the memory of a device, copied there once."""
        device = torch.device(device)
        if device not in self._on:
            self._on[device] = TokenTable(
                self.table.to(device), self.keys.to(device), self.advances.to(device)
            )
        return self._on[device]

    @cached_property
    def _on(self) -> dict[torch.device, TokenTable]:
        return {}

    def __len__(self) -> int:
        return len(self._tokens)

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one token; none for a special one, nor for an id that pads the model's head."""
        return self._tokens[token] if token < len(self._tokens) else b""

    def decode(self, ids: Iterable[int]) -> bytes:
        """Bytes of a sequence of tokens."""
        return b"".join(map(self.token_bytes, ids))

    @cached_property
    def owners(self) -> dict[bytes, int]:
        """One token for each byte string: the lowest id, byte-fallback tokens last."""
        owners: dict[bytes, int] = {}
        fallback = {i for i in self.byte_ids if i is not None}
        for i, data in enumerate(self._tokens):
            if data:
                owner = owners.setdefault(data, i)
                if owner in fallback and i not in fallback:
                    owners[data] = i
        return owners

    @cached_property
    def keys(self) -> torch.Tensor:
        """Keys of the shared noise, int64 ``[V]``: equal for equal bytes across vocabularies.

        If several tokens have the same bytes, only their owner has the key of these bytes. The
        first end-of-turn id has the key of that role.
        """
        keys = bytearray()
        for i, data in enumerate(self._tokens):
            if data and self.owners[data] == i:
                keys += _key(data, "bytes")
            elif self.eos_ids and i == self.eos_ids[0]:
                keys += _key(b"end of turn", "role")
            else:
                keys += _key(str(i).encode(), "id")
        return torch.frombuffer(keys, dtype=torch.int64)

    @cached_property
    def advances(self) -> torch.Tensor:
        """What emitting each token adds to a ``State``, int64 ``[V, 2]``."""
        lengths = self.offsets.diff()
        return torch.stack((lengths, (lengths == 0).long()), 1)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the byte table and the roles; equal for vocabularies that agree in both."""
        digest = hashlib.sha256()
        eos_ids = torch.tensor(self.eos_ids, dtype=torch.int64, device="cpu")
        for part in (self.bytes, self.offsets, eos_ids):
            digest.update(part.numpy().tobytes())
        digest.update(json.dumps(sorted(self.special_ids)).encode())
        return digest.hexdigest()

    @cached_property
    def encoder_fingerprint(self) -> str:
        """SHA-256 of the encoder: vocabularies with equal tables may still spell differently."""
        return hashlib.sha256(self._encoder.to_str().encode()).hexdigest()

    def can_spell(self, data: bytes) -> bool:
        """Whether each of these bytes has a token of its own, so that they can be encoded."""
        return all(self.byte_ids[byte] is not None for byte in data)

    def encode(self, data: bytes) -> list[int]:
        """Encode bytes from the middle of a text, which may start and end inside a character.

        The result holds no special token, even if the text looks like one. ``decode`` of the result
        is ``data`` if the vocabulary can express it; otherwise the result is its nearest encoding.
        """
        text = data.decode("utf-8", errors="surrogateescape")
        ids: list[int] = []
        start = 0
        for match in _UNDECODABLE.finditer(text):
            ids += self._encode_text(text[start : match.start()])
            ids += self._encode_bytes(match.group().encode("utf-8", errors="surrogateescape"))
            start = match.end()
        return ids + self._encode_text(text[start:])

    def encode_all(self, pieces: Sequence[bytes]) -> list[list[int]]:
        """``encode`` for each piece; the tokenizer encodes valid UTF-8 with all its threads."""
        texts = [_text_or_nothing(data) for data in pieces]
        result: list[list[int]] = []
        for start in range(0, len(texts), _BATCH):
            batch = self._encoder.encode_batch_fast(
                texts[start : start + _BATCH], add_special_tokens=False
            )
            for data, encoding in zip(pieces[start:], batch, strict=False):
                ids: list[int] = encoding.ids
                result.append(ids if self.decode(ids) == data else self.encode(data))
        return result

    def _encode_text(self, text: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        if self.decode(ids) == text.encode():
            return ids
        if not self.can_spell(text.encode()):
            return [i for i in ids if i not in self.special_ids]
        if len(text) == 1:
            return self._encode_bytes(text.encode())
        half = len(text) // 2  # find the characters that need byte tokens
        return self._encode_text(text[:half]) + self._encode_text(text[half:])

    def _encode_bytes(self, data: bytes) -> list[int]:
        return [i for i in (self.byte_ids[byte] for byte in data) if i is not None]


def _text_or_nothing(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""


def _key(data: bytes, domain: str) -> bytes:
    return hashlib.blake2b(data, digest_size=8, person=domain.encode()).digest()
