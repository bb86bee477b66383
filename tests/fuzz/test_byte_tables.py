"""Byte tables built from vocabularies of arbitrary pieces, against the tokenizer's own decoder."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tokentiming import Vocabulary

BYTE_LEVEL = sorted(pre_tokenizers.ByteLevel.alphabet())
DECODERS = {
    "byte_level": decoders.ByteLevel(),
    "byte_fallback": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    ),
}

texts = st.text(min_size=1, max_size=6)
pieces = {
    "byte_level": st.one_of(st.text(BYTE_LEVEL, min_size=1, max_size=6), texts),
    "byte_fallback": st.one_of(
        st.integers(0, 255).map(lambda byte: f"<0x{byte:02X}>"),
        st.text("▁ a", min_size=1, max_size=4),
        texts,
    ),
}


@st.composite
def vocabularies(draw, kind: str):
    """A tokenizer whose ids have holes, or one with added tokens, special and not."""
    own = draw(st.lists(pieces[kind], unique=True, min_size=1, max_size=12))
    more = draw(st.lists(texts.filter(str.strip), max_size=3))
    # Added tokens are numbered by their count, so that holes would lead to equal ids.
    holes = 0 if more else draw(st.integers(0, 4))
    ids = draw(st.permutations(range(len(own) + holes)))
    tokenizer = Tokenizer(models.WordLevel(dict(zip(own, ids, strict=False)), unk_token=own[0]))
    tokenizer.decoder = DECODERS[kind]
    for content in more:
        tokenizer.add_tokens([AddedToken(content, special=draw(st.booleans()), normalized=False)])
    return tokenizer


@pytest.mark.parametrize("kind", DECODERS)
@settings(max_examples=300)
@given(data=st.data())
def test_a_table_holds_what_the_tokenizer_decodes(kind, data):
    tokenizer = data.draw(vocabularies(kind))
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    own = tokenizer.get_vocab(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    starts = vocabulary.offsets.tolist()
    stored = bytes(vocabulary.bytes.tolist())

    assert len(vocabulary) == max(own.values()) + 1 == len(starts) - 1
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert starts[-1] == len(b"".join(map(vocabulary.token_bytes, range(len(vocabulary)))))
    for i in range(len(vocabulary)):
        assert vocabulary.token_bytes(i) == stored[starts[i] : starts[i + 1]]
    for i in set(range(len(vocabulary))) - set(own.values()):
        assert vocabulary.token_bytes(i) == b""
        assert i in vocabulary.special_ids
    for piece, i in own.items():
        data = vocabulary.token_bytes(i)
        if i in added and added[i].special:
            assert data == b""
        elif i in added and kind == "byte_level":
            assert data == piece.encode()  # not spelt in the alphabet of bytes
        else:
            assert data.decode(errors="replace") == tokenizer.decoder.decode([piece])
