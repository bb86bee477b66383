"""Toy tokenizers, models and drafters: small enough to reason about, driven by the real code."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import LogitsProcessorList, PreTrainedTokenizerFast

from tokentiming import Draft, ModelDrafter, Vocabulary, methods
from tokentiming.drafters import Choice
from tokentiming.engine.draft_length import DraftLength, FixedDraftLength
from tokentiming.engine.loop import Decoding
from tokentiming.engine.request import Request
from tokentiming.noise import Noise
from tokentiming.tokens.byte_tables import ByteLevel
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.transcode import Context


def byte_level_tokenizer(merges: Sequence[tuple[str, str]] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE over all bytes, with some merges and an end-of-turn token, id 0."""
    alphabet = ByteLevel().byte_pieces
    pieces = ["<eos>", *sorted(alphabet), *(left + right for left, right in merges)]
    backend = Tokenizer(
        tokenizer_models.BPE({piece: i for i, piece in enumerate(pieces)}, list(merges))
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<eos>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def letters(tokens: Sequence[str]) -> Vocabulary:
    """A vocabulary of a few strings, ``<eos>`` being the end of turn; longest first encodes."""
    table = [b"" if token == "<eos>" else token.encode() for token in tokens]
    return Letters(table, [i for i, token in enumerate(tokens) if token == "<eos>"])


class Letters(Vocabulary):
    """Encodes greedily by the longest token."""

    def __init__(self, table: list[bytes], eos_ids: list[int]) -> None:
        super().__init__(
            table, encoder=Tokenizer(tokenizer_models.BPE()), eos_ids=eos_ids, special_ids=eos_ids
        )
        spelling = [(i, piece) for i, piece in enumerate(table) if piece]
        self._longest_first = sorted(spelling, key=lambda token: -len(token[1]))

    def encode(self, data: bytes) -> list[int]:
        ids: list[int] = []
        start = 0
        while start < len(data):
            token, piece = next(t for t in self._longest_first if data.startswith(t[1], start))
            ids.append(token)
            start += len(piece)
        return ids

    def encode_all(self, pieces: Sequence[bytes]) -> list[list[int]]:
        return [self.encode(data) for data in pieces]


class ToyModel:
    """A ``ModelRunner``; a subclass knows the rows."""

    device = torch.device("cpu")
    max_length = None
    synchronizes = False
    forwards = 0

    def rows(self, ids: list[int], keep: int) -> torch.Tensor:
        raise NotImplementedError

    def reset(self) -> None:
        self.read: list[int] = []

    def logits(self, ids: list[int], keep: int = 1) -> torch.Tensor:
        self.read = list(ids)
        self.forwards += 1
        return self.rows(ids, keep)

    def step(self, token: torch.Tensor) -> torch.Tensor:
        return self.logits([*self.read, *token.tolist()])

    def identify(self, ids: list[int]) -> None:
        pass


class TableModel(ToyModel):
    """Log-probabilities are a function of the last two ids."""

    def __init__(self, size: int, seed: int, sharpness: float = 1.5) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(size, size, size, generator=generator).mul_(sharpness)
        self.table = self.table.log_softmax(-1)

    def rows(self, ids: list[int], keep: int) -> torch.Tensor:
        last = torch.tensor(ids[-keep - 1 :])
        return self.table[last[:-1], last[1:]]

    def distribution(self, prompt: Sequence[int], length: int) -> torch.Tensor:
        """Exact joint distribution of the next tokens, ``[V] * length``."""
        distribution = torch.ones(())
        for n in range(length):
            size = self.table.shape[0]
            parts = []
            for flat in range(size**n):
                path = [flat // size**k % size for k in reversed(range(n))]
                a, b = [*prompt, *path][-2:]
                parts.append(self.table[a, b].exp())
            distribution = distribution[..., None] * torch.stack(parts).reshape([size] * (n + 1))
        return distribution


def choice(token: int, confidence: float = 1.0, distribution: torch.Tensor | None = None) -> Choice:
    """A choice of a token, by a distribution ``[V]``."""
    rows = None if distribution is None else distribution[None]
    return Choice(torch.tensor([token]), torch.tensor([confidence]), rows)


class TableDrafter(ModelDrafter):
    """The real drafter over a toy model."""

    def __init__(self, vocabulary: Vocabulary, model: ToyModel) -> None:
        self.vocabulary = vocabulary
        self.begin(None, None, None)
        self.runner = model
        self.prompt = [0, 0]

    def begin(self, prompt, target_tokenizer, warpers) -> None:
        self._context = Context(self.vocabulary)
        self._warpers = lambda ids, scores: scores


class RandomDrafter:
    """Useless: any tokens but special ones, whatever the text."""

    forwards = 0
    synchronizes = False

    def __init__(self, vocabulary: Vocabulary, seed: int = 0) -> None:
        self.vocabulary = vocabulary
        self._random = random.Random(seed)
        self._ordinary = [i for i in range(len(vocabulary)) if vocabulary.token_bytes(i)]

    def begin(self, prompt, target_tokenizer, warpers) -> None:
        pass

    def propose(self, text, state, limit, choose, wants_more) -> Draft:
        ids = self._random.choices(self._ordinary, k=limit)
        ends = self.vocabulary.eos_ids and self._random.random() < 0.1
        return Draft(ids, [1.0] * len(ids), self.vocabulary.eos_ids[0] if ends else None)


class ProphetDrafter:
    """Knows the continuation, and spells it in its own vocabulary; every fifth byte is wrong."""

    forwards = 0
    synchronizes = False

    def __init__(self, vocabulary: Vocabulary, continuation: bytes) -> None:
        self.vocabulary = vocabulary
        self.continuation = continuation

    def begin(self, prompt, target_tokenizer, warpers) -> None:
        pass

    def propose(self, text, state, limit, choose, wants_more) -> Draft:
        told = bytearray(self.continuation[len(text) :])
        for i in range(len(told)):
            if (len(text) + i) % 23 == 22:
                told[i] ^= 1
        ids = self.vocabulary.encode(bytes(told))[:limit]
        return Draft(ids, [1.0] * len(ids))


def decoding(
    target: ToyModel,
    vocabulary: Vocabulary,
    drafter,
    *,
    method: str | methods.Method = "coupled",
    seed: int = 0,
    row: int = 0,
    noise: Noise | None = None,
    remaining: int = 2,
    draft_length: int = 3,
    policy: DraftLength | None = None,
    do_sample: bool = True,
    watch: Callable = lambda round_: None,
    ends: bool = True,
    processors: Sequence[Callable] = (),
    emitted_only: bool = False,
    fails: bool | None = False,
) -> Decoding:
    """Run the real loop on toy parts; without ``ends`` it goes on after an end of turn.

    An error in the drafter is one here, unless it is expected (``fails``) or possible (None).
    """

    def end_reason(ids):
        return "eos" if ends and int(ids[0, -1]) in vocabulary.eos_ids else None

    request = Request(
        prompt=Prompt([0, 0]),
        processors=LogitsProcessorList(processors),
        warpers=LogitsProcessorList(),
        end_reason=end_reason,
        criteria_device=target.device,
        remaining=remaining,
        do_sample=do_sample,
        noise=noise or Noise(seed, row),
        config=None,
        watch=watch,
        emitted_only=emitted_only,
    )
    policy = policy or FixedDraftLength(draft_length)
    run = Decoding(target, vocabulary, drafter, methods.resolve(method), policy, request)
    run.run(None)
    assert fails in (None, run.stats.draft_failure is not None), run.stats.draft_failure
    return run


def decode(*parts, **options) -> list[int]:
    """The new ids of ``decoding``."""
    return decoding(*parts, **options).ids[2:]
