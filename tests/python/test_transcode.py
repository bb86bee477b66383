"""Re-encoding of draft tokens as target tokens, and the draft's context."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import references, toys
from tokentiming import Vocabulary
from tokentiming.tokens.transcode import Context, proxies, unfinished
from tokentiming.tokens.tree import Tree

LEFT = Vocabulary.from_tokenizer(toys.byte_level_tokenizer([("a", "b"), ("ab", "c"), ("æ", "Ĺ")]))
RIGHT = Vocabulary.from_tokenizer(toys.byte_level_tokenizer([("b", "c"), ("a", "bc"), ("Ġ", "a")]))


def reference_unfinished(data: bytes) -> int:
    """Bytes to drop so that what is left ends with a whole character, or was never one."""
    for back in range(1, 4):
        lead = data[-back:][:1]
        if back <= len(data) and lead >= b"\xc0":
            needed = 2 + (lead >= b"\xe0") + (lead >= b"\xf0")
            continuation = all(0x80 <= byte < 0xC0 for byte in data[len(data) - back + 1 :])
            return back if continuation and back < needed else 0
    return 0


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=6), st.text(max_size=3).map(str.encode)), st.integers(0, 3))
def test_unfinished_counts_the_bytes_of_a_cut_character(data, cut):
    data = data[: len(data) - cut]
    assert unfinished(data) == reference_unfinished(data)


def proxies_of(drafted: list[int], target: Vocabulary = RIGHT) -> list[int]:
    """The target's tokens for a chain of LEFT's."""
    tree, _ = proxies(Tree.chain(drafted), [1.0] * len(drafted), LEFT, target)
    assert list(tree.parents) == list(range(-1, len(tree) - 1))
    return list(tree.tokens)


@settings(max_examples=200)
@given(st.text(max_size=20), st.booleans())
def test_proxies_cover_exactly_the_drafted_bytes(text, ends):
    drafted = LEFT.encode(text.encode())
    ids = proxies_of(drafted + [LEFT.eos_ids[0]] * ends)
    assert RIGHT.decode(ids) == text.encode()
    assert (ids[-1:] == [RIGHT.eos_ids[0]]) == ends


def test_an_unfinished_character_is_not_proposed():
    drafted = LEFT.encode("a日".encode()[:-1])
    assert RIGHT.decode(proxies_of(drafted)) == b"a"


def test_between_equal_vocabularies_tokens_stay_as_they_are():
    odd = [LEFT.byte_ids[ord("a")], LEFT.byte_ids[ord("b")]]
    assert proxies_of(odd, LEFT) == odd


@settings(max_examples=200)
@given(st.text("abc é日", max_size=12), st.text("abc é日", max_size=12), st.integers(0, 4))
def test_a_context_spells_the_new_text_and_keeps_the_beginning(kept, added, cut):
    before = LEFT.encode((kept + "tail").encode())
    text = (kept + added).encode()
    text = text[: len(text) - cut]
    context = Context(LEFT)
    context.extend(before)
    ids = list(context.follow(text))
    assert LEFT.decode(ids) == text
    assert context.follow(text) == ids
    shared = len(LEFT.encode(kept.encode())) - 5
    assert ids[: max(shared, 0)] == before[: max(shared, 0)] or cut


PIECES = st.lists(st.tuples(st.text("abc é日", max_size=6), st.text("abc é日", max_size=6)))


@settings(max_examples=200)
@given(PIECES)
def test_a_context_equals_its_slow_twin_in_every_round(rounds):
    """Each round commits some text and drafts more; the next round commits a part of the draft."""
    context, twin, text = Context(LEFT), [], b""
    for committed, drafted in rounds:
        text += committed.encode()
        twin = references.follow(twin, text, LEFT)
        assert context.follow(text) == twin
        context.extend(LEFT.encode(drafted.encode()))
        twin = twin + LEFT.encode(drafted.encode())


class Words(toys.Letters):
    """The vocabulary has two words and no byte tokens: other words get the nearest encoding."""

    def encode(self, data: bytes) -> list[int]:
        return [1 if word in (b"ab", b"cd") else 2 for word in data.split()]


def test_a_context_stays_short_where_the_words_are_unknown():
    vocabulary = Words([b"", b"ab", b"?"], [0])
    context = Context(vocabulary)
    encoded: list[bytes] = []
    encode = vocabulary.encode
    vocabulary.encode = lambda data: encoded.append(data) or encode(data)
    text = b""
    for _ in range(400):
        text += b" xyz ab"
        context.follow(text)
        context.extend([1, 2])
    assert context.follow(text) == encode(text)
    assert max(map(len, encoded)) < 60
