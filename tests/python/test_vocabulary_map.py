"""The map between two vocabularies compared with `encode` for each token."""

from __future__ import annotations

import pytest
import torch

from tests.support import toys
from tokentiming import Vocabulary, VocabularyMap
from tokentiming.tokens import vocabulary_map

LEFT = Vocabulary.from_tokenizer(toys.byte_level_tokenizer([("a", "b"), ("ab", "c"), ("æ", "Ĺ")]))
RIGHT = Vocabulary.from_tokenizer(toys.byte_level_tokenizer([("b", "c"), ("a", "bc"), ("Ġ", "a")]))


def check(draft: Vocabulary, target: Vocabulary, mapped: VocabularyMap, ids) -> None:
    for i in ids:
        data = draft.token_bytes(i)
        if i in draft.eos_ids:
            assert mapped.expansion(i) == [target.eos_ids[0]]
            assert mapped.exact[i] == target.eos_ids[0]
            continue
        spelled = target.encode(data)
        expected = spelled if data and target.decode(spelled) == data else []
        assert mapped.expansion(i) == expected
        assert mapped.first[i] == (expected or [-1])[0]
        same = [j for j in range(len(target)) if data and target.token_bytes(j) == data]
        assert int(mapped.exact[i]) in (same or [-1])


def test_each_token_is_spelled_as_encode_spells_it():
    check(LEFT, RIGHT, VocabularyMap.build(LEFT, RIGHT), range(len(LEFT)))


def test_special_tokens_map_by_role_only():
    draft = toys.letters(["<eos>", "a", "b"])
    target = toys.letters(["b", "a", "<eos>"])
    mapped = VocabularyMap.build(draft, target)
    assert mapped.exact.tolist() == mapped.first.tolist() == [2, 1, 0]
    without_role = Vocabulary([b"", b"a"], encoder=target._encoder, special_ids=[0])
    assert VocabularyMap.build(draft, without_role).exact.tolist() == [-1, 1, -1]


def test_for_equal_bytes_the_encoding_decides():
    target = Vocabulary.from_tokenizer(toys.byte_level_tokenizer([("a", "b")]))
    target._tokens[2] = b"ab"  # another spelling, which encoding never gives
    draft = toys.letters(["ab"])
    assert VocabularyMap.build(draft, target).expansion(0) == target.encode(b"ab")


def test_tokens_that_the_target_cannot_express_have_no_expansion():
    target = toys.letters(["a"])
    target.encode_all = lambda pieces: [[0] for _ in pieces]
    mapped = VocabularyMap.build(toys.letters(["a", "b"]), target)
    assert mapped.first.tolist() == [0, -1]
    assert mapped.expansion(1) == []


def test_between_equal_vocabularies_each_token_maps_to_itself():
    mapped = VocabularyMap.build(LEFT, LEFT)
    every = list(range(len(LEFT)))
    assert mapped.exact.tolist() == mapped.first.tolist() == mapped.expansion_ids.tolist() == every
    assert [mapped.expansion(i) for i in every] == [[i] for i in every]


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENTIMING_CACHE", str(tmp_path))
    monkeypatch.setattr(vocabulary_map, "_WORTH_A_FILE", 1)
    return tmp_path / "maps"


def test_a_map_is_built_once(cached, monkeypatch):
    first = VocabularyMap.build(LEFT, RIGHT)
    assert [path.suffix for path in cached.iterdir()] == [".safetensors"]
    monkeypatch.setattr(Vocabulary, "encode_all", None)
    again = VocabularyMap.build(LEFT, RIGHT)
    for name in ("exact", "first", "expansion_offsets", "expansion_ids"):
        assert torch.equal(getattr(first, name), getattr(again, name))


def test_a_truncated_file_is_rebuilt(cached):
    first = VocabularyMap.build(LEFT, RIGHT)
    (path,) = cached.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert torch.equal(VocabularyMap.build(LEFT, RIGHT).first, first.first)
    assert torch.equal(VocabularyMap._read(path).first, first.first)


def test_an_interrupted_write_leaves_nothing(cached, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(vocabulary_map, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        VocabularyMap.build(LEFT, RIGHT)
    assert list(cached.iterdir()) == []
