"""Text that occurred before as drafter, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import count, groupby
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from tokentiming.drafters.base import Choose, DraftRequest, Grow
from tokentiming.drafters.draft import Draft
from tokentiming.ops import SuffixAutomaton
from tokentiming.scalars import integer, type_of
from tokentiming.tokens.byte_tables import bytes_of
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.tree import TEXT
from tokentiming.tokens.vocabulary import Vocabulary

_HALF = 30 ** (2 / 3)
"""Length in bytes of a match that is a copy half of the time."""
_CHANCE, _LATER_CHANCE = 0.4, 0.1
"""How often the first byte and each later one are right if the match is no copy. The first is often
a space. These were fitted to 13 greedy texts of Qwen2.5-Coder-1.5B."""
_LEAST = 0.02
"""Minimum estimated probability of a path."""


class SuffixDrafter:
    """Drafts what followed the end of the text where it occurred before.

    The longest suffix of prompt and generated text that occurred before is looked up in a suffix
    automaton, in the prompt, in the text itself and in a corpus. The draft is a tree of the bytes
    that followed it, the likeliest first. A byte's confidence is its share of the counts, which are
    those of ``ops.SuffixAutomaton``, times the probability that it is right. A match of n bytes is
    a copy with the probability ``n ** 1.5 / (n ** 1.5 + 30)``, and otherwise right by chance; each
    byte that was right makes the copy likelier. The rest belongs to the bytes that follow the
    shorter match, if prompt and corpus both have one.

    The drafter has no tokenizer: its tokens are bytes, which the decoder re-encodes. It fits the
    methods ``coupled`` and ``slem``, and greedy decoding. Methods that use the draft's
    distributions take its tokens as certain.

    Args:
        corpus: texts to search, each a str, bytes, or the path of a file.
        shortest: minimum length of a match, in bytes.
        nodes: maximum size of a draft, in bytes.
        remember: whether a text that has ended is added to the corpus, without its prompt, and as
            far as it was known when it was last drafted for.

    Raises:
        TypeError: ``corpus`` is a single text or holds something else, or a number is not an
            integer.
        ValueError: a number is below 1, or the corpus has more than 2**28 bytes.
        OSError: a file cannot be read.

    Sources: Prompt Lookup Decoding (Saxena, 2023); SuffixDecoding, arXiv 2411.04975.

    Example:
        >>> drafter = SuffixDrafter(corpus=[Path("README.md")])
        >>> decoder = SpeculativeDecoder(target_model, target_tokenizer, drafter)
    """

    forwards = 0

    def __init__(
        self,
        corpus: Iterable[str | bytes | PathLike[str]] = (),
        *,
        shortest: int = 2,
        nodes: int = 128,
        remember: bool = False,
    ) -> None:
        self.vocabulary = Vocabulary.of_bytes()
        self._shortest = integer(shortest, "shortest", least=1, caller="SuffixDrafter")
        self._nodes = integer(nodes, "nodes", least=1, caller="SuffixDrafter")
        self._remember = remember
        self._corpus = SuffixAutomaton()
        for data in _read(corpus):
            self._corpus.begin_text()
            self._corpus.append(data)
        self._texts: list[_Text] = []

    def begin(self, prompt: Prompt, target_tokenizer: Any, warpers: Callable[..., Any]) -> None:
        self._texts.append(_Text(bytes_of(target_tokenizer, prompt.ids), self._corpus))

    def drop(self, index: int) -> None:
        if self._remember:
            self._corpus.begin_text()
            self._corpus.append(self._texts[index].generated)
        self._texts[index] = self._texts[-1]
        self._texts.pop()

    def reset(self) -> None:
        self._texts = []

    def propose(self, requests: Sequence[DraftRequest], choose: Choose, grow: Grow) -> None:
        """Draft as described by ``Drafter``, without ``choose`` and ``grow``.

        A level is as many bytes as the prompt has for each token.
        """
        for text, request in zip(self._texts, requests, strict=True):
            if request.draft.limit:
                found = [self._continued(*match) for match in text.follow(request.text)]
                depth = round(request.draft.limit * text.token_length)
                self._fill(request.draft, [match for match in found if match], depth)

    def _fill(self, draft: Draft, matches: Sequence[_Match], depth: int) -> None:
        """Grow a draft to a depth, in bytes, its likeliest path first."""
        numbers = count()  # of equal probabilities the first one found is the first
        waiting = [(-1.0, next(numbers), TEXT, 0, matches)]
        while waiting and len(draft) < self._nodes:
            negative, _, node, at, matches = heappop(waiting)
            most = min(draft.candidates, self._nodes - len(draft))
            children = [
                (byte, confidence)
                for byte, confidence in _likeliest(matches, at)[:most]
                if -negative * confidence >= _LEAST
            ]
            first = len(draft)
            draft.take(node, children)
            if at + 1 < depth:
                for child, (byte, confidence) in enumerate(children, first):
                    onward = self._onward(matches, byte)
                    entry = (negative * confidence, next(numbers), child, at + 1, onward)
                    heappush(waiting, entry)

    def _onward(self, matches: Sequence[_Match], byte: int) -> list[_Match]:
        """The matches that the byte continues, with it appended."""
        found = [
            self._continued(match.automaton, state, match.length + 1)
            for match in matches
            for following, state, _ in match.following
            if following == byte
        ]
        return [match for match in found if match]

    def _continued(self, automaton: SuffixAutomaton, state: int, length: int) -> _Match | None:
        """The longest suffix of a match that is followed by a byte; None if it is too short.

        A text that repeats itself is thus drafted beyond its own end.
        """
        while length >= self._shortest:
            following = automaton.next(state)
            if following:
                return _Match(automaton, length, following)
            state, length = automaton.shorter(state)
        return None


class _Match(NamedTuple):
    """A string of the texts of an automaton, and the bytes that follow it."""

    automaton: SuffixAutomaton
    length: int
    following: list[tuple[int, int, int]]
    """As ``SuffixAutomaton.next`` returns them."""


def _likeliest(matches: Sequence[_Match], drafted: int) -> list[tuple[int, float]]:
    """The bytes that follow some matches, with the estimated probability of each.

    Args:
        matches: the last ``drafted`` bytes of each are part of the draft.
        drafted: bytes before these in the draft.
    """
    estimates: dict[int, float] = {}
    remaining = 1.0
    for match in sorted(matches, key=lambda match: -match.length):
        total = sum(times for _, _, times in match.following)
        reliable = remaining * _right(max(match.length - drafted, 1), drafted)
        for byte, _, times in match.following:
            estimates[byte] = estimates.get(byte, 0.0) + reliable * times / total
        remaining -= reliable
    return sorted(estimates.items(), key=lambda estimate: -estimate[1])


def _right(length: int, drafted: int) -> float:
    """The probability that the next byte is right.

    Args:
        length: of the match before the draft, in bytes.
        drafted: bytes of the draft before it, which are taken as right.
    """
    copy: float = (length / _HALF) ** 1.5  # odds before the draft
    if not drafted:
        return (copy + _CHANCE) / (copy + 1)
    chance = _CHANCE * _LATER_CHANCE ** (drafted - 1)  # 0 after hundreds of bytes
    return (copy + _LATER_CHANCE * chance) / (copy + chance)


class _Text:
    """A text, and where its end occurred before.

    Args:
        prompt: bytes of each token; strings do not extend over special tokens, which have none.
        corpus: other texts.

    Attributes:
        generated: the bytes generated so far.
        token_length: mean length of the prompt's tokens, in bytes.
    """

    def __init__(self, prompt: Sequence[bytes], corpus: SuffixAutomaton) -> None:
        self.generated = b""
        self._own = SuffixAutomaton()
        self._corpus = corpus
        self._in_corpus = 0, 0
        for is_text, run in groupby(prompt, bool):
            if is_text:
                self._append(b"".join(run))
            else:
                self._own.begin_text()
                self._in_corpus = 0, 0
        self.token_length = len(self._own) / max(sum(map(bool, prompt)), 1) or 1.0

    def follow(self, generated: bytes) -> list[tuple[SuffixAutomaton, int, int]]:
        """The longest suffix of the text that occurs before, and the longest one in the corpus.

        Each is an automaton, a state and a length.
        """
        self._append(generated[len(self.generated) :])
        self.generated = generated
        return [(self._own, *self._own.repeated()), (self._corpus, *self._in_corpus)]

    def _append(self, data: bytes) -> None:
        self._own.append(data)
        self._in_corpus = self._corpus.follow(*self._in_corpus, data)


def _read(corpus: Iterable[str | bytes | PathLike[str]]) -> Iterable[bytes]:
    """The bytes of each text of a corpus."""
    if isinstance(corpus, str | bytes | PathLike):
        raise TypeError("SuffixDrafter: corpus is a single text; give a list of texts")
    for text in corpus:
        if isinstance(text, str):
            try:
                yield text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"SuffixDrafter: corpus holds a text that is not valid Unicode: {error}"
                ) from None
        elif isinstance(text, bytes):
            yield text
        elif isinstance(text, PathLike):
            yield Path(text).read_bytes()
        else:
            raise TypeError(
                f"SuffixDrafter: corpus holds {type_of(text)}; give str, bytes or the "
                "path of a file"
            )
