"""Byte tables, keys and encodings of every kind of tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.support import toys
from tokentiming import Vocabulary

TEXTS = ["", "hello  world", " a", "\n\n\t x", "日本語 👩‍👩‍👧 ñ e\u0301", "▁ low line", "<eos> <s>"]


def sentencepiece(byte_fallback: bool = True) -> Tokenizer:
    pieces = ["<unk>", "<s>", *(f"<0x{b:02X}>" for b in range(256) if byte_fallback)]
    pieces += ["▁", "a", "b", "▁a", "ab", "▁▁", "é"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("a", "b"), ("▁", "▁")]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=byte_fallback, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>"])
    return tokenizer


def unigram() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁the", -1.0), ("a", -3.0), ("b", -3.0), ("ab", -2.5)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(["<unk>"])
    return tokenizer


def wordpiece() -> Tokenizer:
    vocab = {"[UNK]": 0, "the": 1, "cat": 2, "##s": 3}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece("##")
    tokenizer.add_special_tokens(["[UNK]"])
    return tokenizer


@pytest.fixture(scope="module")
def byte_level() -> Vocabulary:
    merges = [("h", "e"), ("l", "l"), ("Ġ", "w"), ("Ã", "±")]
    return Vocabulary.from_tokenizer(toys.byte_level_tokenizer(merges))


@pytest.fixture(scope="module")
def with_fallback() -> Vocabulary:
    return Vocabulary.from_tokenizer(sentencepiece())


@pytest.mark.parametrize("kind", ["byte_level", "with_fallback"])
@settings(max_examples=200)
@given(text=st.one_of(st.sampled_from(TEXTS), st.text()), cut=st.integers(0, 20), tail=st.binary())
def test_any_bytes_round_trip_even_cut_inside_a_character(request, kind, text, cut, tail):
    vocabulary = request.getfixturevalue(kind)
    data = (text.encode() + tail)[cut:]
    ids = vocabulary.encode(data)
    assert vocabulary.decode(ids) == data
    assert not vocabulary.special_ids & set(ids)


def test_a_dummy_prefix_is_not_added_in_the_middle_of_a_text(with_fallback):
    assert with_fallback.decode(with_fallback.encode(b"ab")) == b"ab"
    assert len(with_fallback.encode(b"ab")) == 1


def test_kinds_without_fallback_give_their_nearest_encoding():
    vocabulary = Vocabulary.from_tokenizer(unigram())
    assert vocabulary.decode(vocabulary.encode(b"ab the")) == b"ab the"
    assert vocabulary.decode(vocabulary.encode("ab日".encode())) == b"ab"
    words = Vocabulary.from_tokenizer(wordpiece())
    assert words.decode(words.encode(b"The cats")) == b" the cats"
    assert not words.can_spell(b"t")


def test_equal_bytes_share_a_key_across_vocabularies_and_never_within_one(
    byte_level, with_fallback
):
    for vocabulary in (byte_level, with_fallback):
        assert len(set(vocabulary.keys.tolist())) == len(vocabulary)
    [left], [right] = byte_level.encode(b"a"), with_fallback.encode(b"a")
    assert byte_level.keys[left] == with_fallback.keys[right]
    fallback = with_fallback.byte_ids[ord("a")]
    assert fallback < right, "the byte token has the lower id and yet not the plain key"
    assert with_fallback.keys[fallback] != with_fallback.keys[right]


def test_the_end_of_turn_is_a_role_shared_by_all_vocabularies(byte_level):
    other = Vocabulary.from_tokenizer(sentencepiece(), eos_token_ids=[1])
    assert byte_level.keys[byte_level.eos_ids[0]] == other.keys[1]
    assert other.token_bytes(1) == b""


def test_added_tokens_have_their_literal_bytes_and_special_ones_none():
    tokenizer = toys.byte_level_tokenizer().backend_tokenizer
    tokenizer.add_tokens([AddedToken("<tool é>", special=False)])
    tokenizer.add_special_tokens(["<think>"])
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    assert vocabulary.token_bytes(tokenizer.token_to_id("<tool é>")) == "<tool é>".encode()
    assert vocabulary.token_bytes(tokenizer.token_to_id("<think>")) == b""
    assert vocabulary.decode(vocabulary.encode(b"<think>")) == b"<think>"


def test_the_tokenizer_is_not_changed():
    tokenizer = sentencepiece()
    before = tokenizer.to_str()
    Vocabulary.from_tokenizer(tokenizer).encode(b"ab")
    assert tokenizer.to_str() == before


def test_ids_that_pad_the_models_head_have_no_bytes(byte_level):
    assert byte_level.token_bytes(len(byte_level) + 5) == b""


@pytest.mark.parametrize(
    ("decoder", "name"), [(decoders.CTC(), "CTC"), (None, "nothing"), (decoders.Fuse(), "Fuse")]
)
def test_unknown_kinds_are_refused_by_name(decoder, name):
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    if decoder is not None:
        tokenizer.decoder = decoder
    with pytest.raises(ValueError, match=f"decodes with {name}, a kind whose"):
        Vocabulary.from_tokenizer(tokenizer)


def test_objects_that_are_not_tokenizers_are_refused():
    with pytest.raises(TypeError, match="tokenizer is a dict"):
        Vocabulary.from_tokenizer({})
    with pytest.raises(ValueError, match="eos_token_ids holds 999"):
        Vocabulary.from_tokenizer(wordpiece(), eos_token_ids=999)
