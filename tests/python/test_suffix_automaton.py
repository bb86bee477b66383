"""``ops.SuffixAutomaton`` against a search of its texts. The counts are tested in tests/cpp."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.growth import growth, needs_proc
from tokentiming import ops

some_bytes = st.one_of(
    st.text("ab", max_size=24).map(str.encode),
    st.binary(max_size=12),
    st.sampled_from([bytes(range(256)), "日本日本語".encode(), b"\xe6\x97" * 5]),
)


def occurrences(texts: list[bytes], data: bytes) -> list[bytes]:
    """What follows each occurrence of some bytes."""
    return [
        text[end:]
        for text in texts
        for end in range(len(data), len(text) + 1)
        if text[end - len(data) : end] == data
    ]


def longest_suffix(texts: list[bytes], data: bytes, *, times: int) -> bytes:
    """The longest suffix of some bytes that occurs so many times."""
    return next(
        data[start:]
        for start in range(len(data) + 1)
        if start == len(data) or len(occurrences(texts, data[start:])) >= times
    )


def automaton_of(texts: list[list[bytes]]) -> ops.SuffixAutomaton:
    automaton = ops.SuffixAutomaton()
    for text in texts:
        automaton.begin_text()
        for data in text:
            automaton.append(data)
    return automaton


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(some_bytes, max_size=3), min_size=1, max_size=3), some_bytes)
def test_answers_are_those_of_a_search(pieces: list[list[bytes]], query: bytes) -> None:
    automaton = automaton_of(pieces)
    texts = [b"".join(text) for text in pieces]
    assert len(automaton) == sum(map(len, texts))

    repeated = longest_suffix(texts, texts[-1], times=2)
    assert automaton.repeated() == automaton.follow(0, 0, repeated)
    assert automaton.repeated()[1] == len(repeated)

    known = longest_suffix(texts, query, times=1)
    state, length = automaton.follow(0, 0, query)
    assert length == len(known)
    shorter = next(
        known[start:]
        for start in range(len(known) + 1)
        if start == len(known)
        or len(occurrences(texts, known[start:])) > len(occurrences(texts, known))
    )
    assert automaton.shorter(state) == automaton.follow(0, 0, shorter)
    followers = [rest[0] for rest in occurrences(texts, known) if rest]
    found = automaton.next(state)
    assert [byte for byte, _, _ in found] == sorted(set(followers))
    for byte, onward, count in found:
        assert automaton.follow(state, length, bytes([byte])) == (onward, length + 1)
        assert 1 <= count <= followers.count(byte)


def test_bytes_come_from_any_buffer() -> None:
    automaton = automaton_of([[b"ab", bytearray(b"ab"), memoryview(b"xabx")[1:3]]])
    assert automaton.repeated()[1] == 4
    assert len(automaton) == 6


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: a.append("ab"), TypeError, "append: data must be bytes, got str"),
        (lambda a: a.append(None), TypeError, "append: data must be bytes, got NoneType"),
        (lambda a: a.append([97]), TypeError, "append: data must be bytes, got list"),
        (lambda a: a.append(memoryview(b"abab").cast("H")), TypeError, "append: data must be byt"),
        (lambda a: a.append(memoryview(b"abab")[::2]), TypeError, "append: data must be bytes"),
        (lambda a: a.follow(0, 0, "ab"), TypeError, "follow: data must be bytes, got str"),
        (lambda a: a.follow(0, 1, b""), ValueError, "follow: length is 1; the strings of state 0"),
        (lambda a: a.follow(9, 0, b""), ValueError, r"follow: state is 9; .* states 0\.\.2"),
        (lambda a: a.follow(0, -1, b""), ValueError, "follow: length is -1; it must be in"),
        (lambda a: a.follow(True, 0, b""), TypeError, "follow: state must be an integer"),
        (lambda a: a.next(3), ValueError, r"next: state is 3; the automaton has states 0\.\.2"),
        (lambda a: a.next(2**32), ValueError, "next: state is 4294967296; it must be in"),
        (lambda a: a.shorter(-1), ValueError, "shorter: state is -1; it must be in"),
        (lambda a: a.next("0"), TypeError, "next: state must be an integer"),
    ],
)
def test_errors_name_the_argument(call, error: type[Exception], message: str) -> None:
    automaton = automaton_of([[b"ab"]])
    with pytest.raises(error, match=f"^SuffixAutomaton.{message}") as raised:
        call(automaton)
    assert isinstance(raised.value, ops.ArgumentError)
    assert len(automaton) == 2
    assert automaton.repeated() == (0, 0)


@needs_proc
def test_its_memory_is_freed() -> None:
    def made() -> None:
        automaton_of([[b"to be or not to be" * 20]])

    gc.collect()
    assert growth(made, 2000) < 2**20
