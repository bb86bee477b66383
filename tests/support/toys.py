"""Toy tokenizers, models and drafters: small enough to reason about, driven by the real code."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import LogitsProcessorList, PreTrainedTokenizerFast

from tokentiming import Draft, ModelDrafter, Vocabulary, methods
from tokentiming.drafters import DraftRequest
from tokentiming.drafters.model import Reader
from tokentiming.engine.budget import Budget, FixedBudget
from tokentiming.engine.loop import Decoding
from tokentiming.engine.request import Request
from tokentiming.engine.stats import Stats
from tokentiming.engine.text import Text
from tokentiming.noise import Noise
from tokentiming.tokens.byte_tables import ByteLevel
from tokentiming.tokens.prompts import Prompt
from tokentiming.tokens.tree import Tree


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
    """A ``ModelRunner``; a subclass computes the rows."""

    device = torch.device("cpu")
    max_length = None
    forwards = 0
    supports_forests = True

    def after(self, ids: list[int]) -> torch.Tensor:
        """Scores ``[V]`` after some ids."""
        raise NotImplementedError

    def reset(self) -> None:
        self.texts: list[list[int]] = []
        self.nodes: list[list[list[int]]] = []  # of each text, the path to each node

    def read(self, texts: Sequence[Sequence[int]], trees: Sequence[Tree]) -> list[torch.Tensor]:
        self.texts = [list(ids) for ids in texts]
        self.nodes = [[] for _ in texts]
        self.forwards += 1
        roots = [self._rows([ids] if ids else []) for ids in self.texts]
        return [torch.cat(parts) for parts in zip(roots, self._extended(trees), strict=True)]

    def extend(self, trees: Sequence[Tree]) -> list[torch.Tensor]:
        self.forwards += 1
        return self._extended(trees)

    def drop(self, index: int) -> None:
        """Nothing is kept from one call to the next."""

    def _extended(self, trees: Sequence[Tree]) -> list[torch.Tensor]:
        rows = []
        for text, nodes, tree in zip(self.texts, self.nodes, trees, strict=True):
            old = len(nodes)
            for token, parent in zip(tree.tokens, tree.parents, strict=True):
                nodes.append([*(nodes[parent] if parent >= 0 else []), token])
            rows.append(self._rows([[*text, *path] for path in nodes[old:]]))
        return rows

    def _rows(self, paths: list[list[int]]) -> torch.Tensor:
        if not paths:
            return self.after([0, 0])[None][:0]
        return torch.stack([self.after(ids) for ids in paths])


class TableModel(ToyModel):
    """Log-probabilities are a function of the last two ids."""

    def __init__(self, size: int, seed: int, sharpness: float = 1.5) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(size, size, size, generator=generator).mul_(sharpness)
        self.table = self.table.log_softmax(-1)

    def after(self, ids: list[int]) -> torch.Tensor:
        return self.table[ids[-2], ids[-1]]

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


class TableDrafter(ModelDrafter):
    """The real drafter over a toy model."""

    def __init__(self, vocabulary: Vocabulary, model: ToyModel) -> None:
        self.vocabulary = vocabulary
        self.runner = model
        self.texts = []

    def begin(self, prompt, target_tokenizer, warpers) -> None:
        self.texts.append(Reader([0, 0], self.vocabulary, lambda ids, scores: scores))


class Drafter:
    """Drafts without a model; a subclass continues one text."""

    forwards = 0

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def begin(self, prompt, target_tokenizer, warpers) -> None:
        pass

    def drop(self, index: int) -> None:
        pass

    def reset(self) -> None:
        pass

    def propose(self, requests: Sequence[DraftRequest], choose, grow) -> None:
        for one in requests:
            if one.draft.limit:
                self.fill(one.text, one.draft)

    def fill(self, text: bytes, draft: Draft) -> None:
        raise NotImplementedError


class RandomDrafter(Drafter):
    """Drafts random tokens for any text, as a tree of any shape, sometimes with an end of turn."""

    def __init__(self, vocabulary: Vocabulary, seed: int = 0, *, branches: bool = False) -> None:
        super().__init__(vocabulary)
        self._random = random.Random(seed)
        self._ordinary = [i for i in range(len(vocabulary)) if vocabulary.token_bytes(i)]
        self._branches = branches

    def fill(self, text: bytes, draft: Draft) -> None:
        for _ in range(min(draft.limit, 16)):
            at = self._random.randrange(-1, len(draft)) if self._branches else None
            draft.extend([self._random.choice(self._ordinary)], at)
        if self.vocabulary.eos_ids and self._random.random() < 0.1:
            draft.extend(self.vocabulary.eos_ids[:1])


class ProphetDrafter(Drafter):
    """Knows the continuation, and spells it in its own vocabulary; every 23rd byte is wrong."""

    def __init__(self, vocabulary: Vocabulary, continuation: bytes) -> None:
        super().__init__(vocabulary)
        self.continuation = continuation

    def fill(self, text: bytes, draft: Draft) -> None:
        told = bytearray(self.continuation[len(text) :])
        for i in range(len(told)):
            if (len(text) + i) % 23 == 22:
                told[i] ^= 1
        draft.extend(self.vocabulary.encode(bytes(told))[: draft.limit])


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
    budget: Budget | None = None,
    do_sample: bool = True,
    watch: Callable = lambda round_: None,
    ends: bool = True,
    processors: Sequence[Callable] = (),
    emitted_only: bool = False,
    fails: bool | None = False,
    texts: int = 1,
    batch_size: int = 1,
) -> list[Text]:
    """Run the real loop on toy parts; without ``ends`` it continues after an end of turn.

    An error in the drafter is one here, unless it is expected (``fails``) or possible (None).
    """

    def end_reason(ids):
        return "eos" if ends and int(ids[0, -1]) in vocabulary.eos_ids else None

    requests = [
        Request(
            prompt=Prompt([0, 0]),
            processors=LogitsProcessorList(processors),
            warpers=LogitsProcessorList(),
            end_reason=end_reason,
            criteria_device=target.device,
            remaining=remaining,
            do_sample=do_sample,
            noise=noise or Noise(seed, row + index),
            index=index,
            config=None,
            watch=watch,
            emitted_only=emitted_only,
        )
        for index in range(texts)
    ]
    budget = budget or FixedBudget(depth=draft_length)
    chosen = methods.resolve(method) if do_sample else methods.Greedy()
    made = [Text(one, vocabulary, Stats(chosen.name, exact=chosen.exact)) for one in requests]
    drafters = drafter if isinstance(drafter, list) else [] if drafter is None else [drafter]
    Decoding(target, vocabulary, drafters, chosen, budget, batch_size=batch_size).run(made)
    for text in made:
        failure = text.stats.draft_failure
        assert fails in (None, failure is not None), failure
    return made


def decode(*parts, **options) -> list[int]:
    """The new ids of the one text of ``decoding``."""
    (text,) = decoding(*parts, **options)
    return text.new
