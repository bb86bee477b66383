"""Properties of any text, any bytes and every kind of tokenizer."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.tokenizer_kinds import BYTES_COME_BACK, REAL, TRAINED, tokenizer_and_vocabulary
from tokentiming import Vocabulary, VocabularyMap
from tokentiming.methods.tokentiming import byte_spans, warped_spans
from tokentiming.tokens.byte_tables import bytes_of
from tokentiming.tokens.transcode import proxies, unfinished
from tokentiming.tokens.tree import Tree

ALL = (*REAL, *TRAINED)
TEXT = st.text(max_size=24)
WORDS = st.lists(
    st.sampled_from(
        ["the ", "fox", " and", "\n\n", "  ", "日本", "ñ", "старик ", "e\u0301", "👩‍👧", "x = 1"]
    ),
    max_size=8,
).map("".join)
BYTES = st.one_of(st.binary(max_size=16), TEXT.map(str.encode), WORDS.map(str.encode))
PAIRS = list(permutations(BYTES_COME_BACK, 2))
thorough = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def vocabulary(request):
    return tokenizer_and_vocabulary(request.param)[1]


@pytest.fixture
def pair(request):
    return tuple(tokenizer_and_vocabulary(name)[1] for name in request.param)


@pytest.mark.parametrize("name", ALL)
def test_bytes_of_some_tokens_are_those_of_the_vocabulary(name):
    tokenizer, vocabulary = tokenizer_and_vocabulary(name)
    size = len(vocabulary)
    ids = [*range(min(size, 3000)), *range(size - 100, size), *vocabulary.special_ids, size + 5]
    assert bytes_of(tokenizer, ids) == [vocabulary.token_bytes(i) for i in ids]


@thorough
@given(data=BYTES)
def test_tokens_of_the_vocabulary_of_bytes_are_bytes(data):
    vocabulary = Vocabulary.of_bytes()
    assert vocabulary.encode(data) == list(data)
    assert vocabulary.decode(data) == data
    assert len(vocabulary) == 256
    assert not vocabulary.special_ids


@pytest.mark.parametrize("vocabulary", BYTES_COME_BACK, indirect=True)
@thorough
@given(data=BYTES)
def test_encoding_and_decoding_returns_the_bytes(vocabulary, data):
    assume(vocabulary.can_spell(data))
    assert vocabulary.decode(vocabulary.encode(data)) == data


@pytest.mark.parametrize("vocabulary", BYTES_COME_BACK, indirect=True)
@thorough
@given(data=BYTES, cut=st.integers(0, 30))
def test_encoding_in_two_parts_returns_the_bytes_for_any_cut(vocabulary, data, cut):
    assume(vocabulary.can_spell(data))
    parts = data[:cut], data[cut:]
    assert b"".join(vocabulary.decode(vocabulary.encode(part)) for part in parts) == data


@pytest.mark.parametrize("vocabulary", ALL, indirect=True)
@thorough
@given(data=BYTES)
def test_every_kind_encodes_any_bytes(vocabulary, data):
    ids = vocabulary.encode(data)
    assert not vocabulary.special_ids & set(ids)
    assert vocabulary.encode_all([data, b"", data])[0] in (ids, vocabulary.encode(data))


@pytest.mark.parametrize("name", ALL)
@thorough
@given(data=st.data())
def test_text_that_looks_like_a_special_token_is_never_one(name, data):
    tokenizer, vocabulary = tokenizer_and_vocabulary(name)
    added = tokenizer.get_added_tokens_decoder()
    looks = sorted(token.content for token in added.values() if token.special)
    parts = data.draw(st.lists(st.one_of(st.sampled_from(looks), TEXT), min_size=1, max_size=4))
    text = "".join(parts).encode()
    ids = vocabulary.encode(text)
    assert not vocabulary.special_ids & set(ids)
    if name in BYTES_COME_BACK and vocabulary.can_spell(text):
        assert vocabulary.decode(ids) == text


@pytest.mark.parametrize("pair", PAIRS, indirect=True, ids=" -> ".join)
@thorough
@given(data=BYTES, ends=st.booleans())
def test_proxies_cover_exactly_the_drafted_bytes(pair, data, ends):
    draft, target = pair
    assume(draft.can_spell(data) and target.can_spell(data))
    drafted = Tree.chain(draft.encode(data) + [draft.eos_ids[0]] * ends)
    tree, _ = proxies(drafted, [1.0] * len(drafted), draft, target)
    ids = list(tree.tokens)
    assert target.decode(ids) == data[: len(data) - unfinished(data)]
    assert (ids[-1:] == [target.eos_ids[0]]) == ends


@pytest.mark.parametrize("pair", PAIRS, indirect=True, ids=" -> ".join)
@thorough
@given(data=BYTES.filter(bool))
def test_alignments_are_whole_and_byte_offsets_partition_both_sides(pair, data):
    draft, target = pair
    assume(draft.can_spell(data) and target.can_spell(data))
    ids, others = torch.tensor(draft.encode(data)), torch.tensor(target.encode(data))
    for spans in (
        warped_spans(ids, others, draft, target).tolist(),
        byte_spans(ids, others, draft, target).tolist(),
    ):
        assert spans[0][0] == 0
        assert spans[-1][1] == len(ids)
        assert all(lo < hi for lo, hi in spans)
        assert all(right[0] in (left[1], left[1] - 1) for left, right in pairwise(spans))
    for vocabulary, tokens in ((draft, ids), (target, others)):
        assert int(vocabulary.offsets.diff()[tokens].sum()) == len(data)


LARGE = ("gemma-3-270m", "qwen2.5-coder-1.5b")
"""Drafts whose maps take seconds to build."""
MAPS = [
    pytest.param(pair, marks=pytest.mark.slow) if pair[0] in LARGE else pair
    for pair in [*PAIRS, ("smollm2-135m", "WordPiece")]
]


@pytest.mark.parametrize("pair", MAPS, indirect=True, ids=" -> ".join)
def test_maps_between_real_vocabularies(pair):
    draft, target = pair
    mapped = VocabularyMap.build(draft, target)
    assert int(mapped.exact.max()) < len(target)
    assert int(mapped.expansion_ids.max()) < len(target)
    special = torch.tensor(sorted(target.special_ids - {target.eos_ids[0]}))
    assert not torch.isin(mapped.expansion_ids, special).any()
    assert not torch.isin(mapped.exact, special).any()
    mapped_to_end = (mapped.first == target.eos_ids[0]).nonzero()[:, 0].tolist()
    assert mapped_to_end == list(draft.eos_ids)
    for token in range(0, len(draft), 997):
        data = draft.token_bytes(token)
        if token in draft.special_ids or not data:
            continue
        spelled = target.encode(data)
        assert mapped.expansion(token) == (spelled if target.decode(spelled) == data else [])
        if int(mapped.exact[token]) >= 0:
            assert target.token_bytes(int(mapped.exact[token])) == data
