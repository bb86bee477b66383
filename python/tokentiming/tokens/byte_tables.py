"""The bytes of tokens, for each kind of tokenizer.

The decoder, the part of a tokenizer that turns tokens back into text, determines the kind.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any, Protocol

from tokenizers import Tokenizer, normalizers, pre_tokenizers


class Kind(Protocol):
    """How one kind of tokenizer spells bytes."""

    byte_pieces: list[str]
    """For each byte value the token of that byte alone; the vocabulary need not have it."""

    def token_bytes(self, piece: str, *, added: bool) -> bytes:
        """Bytes of a token, given as the vocabulary spells it."""

    def encoder(self, backend: Tokenizer) -> Tokenizer:
        """A copy that encodes the middle of a text without additions, losslessly if possible."""


def kind_of(backend: Tokenizer) -> Kind:
    """The kind of a tokenizer, by its decoder; an unknown decoder is refused by name."""
    decoder = _state(backend.decoder) or {"type": "nothing"}
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    types = [step["type"] for step in steps]
    if types == ["ByteLevel"]:
        return ByteLevel()
    if types == ["WordPiece"]:
        return WordPiece(prefix=steps[0]["prefix"])
    if types == ["BPEDecoder"]:
        return SuffixedWords(suffix=steps[0]["suffix"])
    if types == ["Metaspace"]:
        return SentencePiece(space=steps[0]["replacement"])
    spaces = [s for s in steps if s["type"] == "Replace" and s["content"] == " "]
    if set(types) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"} and (
        spaces or "Metaspace" in types
    ):
        space = spaces[0]["pattern"].get("String") if spaces else "\N{LOWER ONE EIGHTH BLOCK}"
        if space and types.count("Replace") == len(spaces):
            return SentencePiece(space=space)
    raise ValueError(
        f"Vocabulary.from_tokenizer: tokenizer decodes with {' + '.join(types)}, a kind whose "
        "token bytes are not known; known are ByteLevel, Metaspace, Replace + ByteFallback, "
        "WordPiece and BPEDecoder"
    )


def bytes_of(tokenizer: Any, ids: Iterable[int]) -> list[bytes]:
    """The bytes of a few tokens; none for special ones and for ids that the tokenizer lacks.

    A ``Vocabulary`` has the same bytes, but reads those of all tokens.
    """
    backend: Tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
    kind = kind_of(backend)
    added = backend.get_added_tokens_decoder()
    pieces = ((i, backend.id_to_token(i)) for i in ids)
    return [
        b""
        if piece is None or (i in added and added[i].special)
        else kind.token_bytes(piece, added=i in added)
        for i, piece in pieces
    ]


class ByteLevel:
    """Byte-level BPE: each byte is written as one printable character."""

    def __init__(self) -> None:
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        hidden = [byte for byte in range(256) if byte not in printable]
        self._bytes = {chr(byte): byte for byte in printable}
        self._bytes |= {chr(256 + i): byte for i, byte in enumerate(hidden)}
        spelling = {byte: char for char, byte in self._bytes.items()}
        self.byte_pieces = [spelling[byte] for byte in range(256)]

    def token_bytes(self, piece: str, *, added: bool) -> bytes:
        if added or not all(char in self._bytes for char in piece):
            return piece.encode()
        return bytes(self._bytes[char] for char in piece)

    def encoder(self, backend: Tokenizer) -> Tokenizer:
        bare = _bare_copy(backend)
        bare.normalizer = None
        bare.pre_tokenizer = _pre_tokenizer(bare, ByteLevel={"add_prefix_space": False})
        return bare


class SentencePiece:
    """SentencePiece with or without byte fallback: a visible mark stands for the space."""

    def __init__(self, space: str) -> None:
        self._space = space
        self.byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
        self._fallback = {piece: byte for byte, piece in enumerate(self.byte_pieces)}

    def token_bytes(self, piece: str, *, added: bool) -> bytes:
        if piece in self._fallback:
            return bytes([self._fallback[piece]])
        return piece.replace(self._space, " ").encode()

    def encoder(self, backend: Tokenizer) -> Tokenizer:
        bare = _bare_copy(backend)
        bare.normalizer = normalizers.Replace(" ", self._space)
        bare.pre_tokenizer = _pre_tokenizer(bare, Metaspace={"prepend_scheme": "never"})
        return bare


class WordPiece:
    """WordPiece: a word's first piece implies a space before it, the others carry a prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.byte_pieces: list[str] = []

    def token_bytes(self, piece: str, *, added: bool) -> bytes:
        if piece.startswith(self._prefix) and not added:
            return piece.removeprefix(self._prefix).encode()
        return b" " + piece.encode()

    def encoder(self, backend: Tokenizer) -> Tokenizer:
        return _bare_copy(backend)


class SuffixedWords:
    """BPE with an end-of-word suffix, which stands for the space after the word."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self.byte_pieces: list[str] = []

    def token_bytes(self, piece: str, *, added: bool) -> bytes:
        return piece.replace(self._suffix, " ").encode()

    def encoder(self, backend: Tokenizer) -> Tokenizer:
        return _bare_copy(backend)


def _bare_copy(backend: Tokenizer) -> Tokenizer:
    bare = copy.deepcopy(backend)
    bare.no_truncation()
    bare.no_padding()
    bare.encode_special_tokens = True
    return bare


def _pre_tokenizer(bare: Tokenizer, **changes: dict[str, Any]) -> Any:
    """The tokenizer's own pre-tokenizer with some fields of some of its steps replaced."""
    state = _state(bare.pre_tokenizer)
    if state is None:
        return None
    for step in state["pretokenizers"] if state["type"] == "Sequence" else [state]:
        step.update(changes.get(step["type"], {}))
    changed = pre_tokenizers.Sequence([])
    changed.__setstate__(json.dumps(state).encode())
    return changed


def _state(component: Any) -> dict[str, Any] | None:
    return None if component is None else json.loads(component.__getstate__())
