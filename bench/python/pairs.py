"""Pairs of tokenizations of one text, and maps between two vocabularies: real ones and random ones.

Real ones are SmolLM2's and Gemma's over the prompts beside; they need tokenizers on disk. A machine
with a GPU may have none and takes random ones.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import torch
from torch import Tensor

from prompts import chosen
from tokentiming import Vocabulary, ops

DRAFT, TARGET = 49_152, 262_144  # tokens of SmolLM2 and of Gemma


@cache
def vocabularies() -> tuple[Vocabulary, Vocabulary]:
    """SmolLM2's and Gemma's."""
    from transformers import AutoTokenizer

    from tokentiming.cli import demo_models

    draft, target = (
        Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(demo_models.pull(name)))
        for name in ("smollm2-135m", "gemma-3-270m")
    )
    return draft, target


def real_windows(tokens: int, count: int) -> list[tuple[list[int], list[int]]]:
    """Windows of so many tokens of either vocabulary that start at one byte of a prompt."""

    def starts(vocab: Vocabulary, ids: list[int]) -> dict[int, int]:
        lengths = (len(vocab.token_bytes(i)) for i in ids)
        return {byte: k for k, byte in enumerate(itertools.accumulate(lengths, initial=0))}

    draft_vocab, target_vocab = vocabularies()
    windows = []
    for prompt in chosen():
        text = prompt["prompt"].encode()
        draft, target = draft_vocab.encode(text), target_vocab.encode(text)
        target_starts = starts(target_vocab, target)
        for byte, i in starts(draft_vocab, draft).items():
            j = target_starts.get(byte)
            if j is not None and max(i + tokens - len(draft), j + tokens - len(target)) <= 0:
                windows.append((draft[i:][:tokens], target[j:][:tokens]))
    return windows[:: max(1, len(windows) // count)][:count]


class Pairs:
    """Pairs of ``tokens`` draft and target tokens each, and their byte tables."""

    def __init__(
        self,
        ids: tuple[list[list[int]], list[list[int]]],
        texts: list[Any],
        tables: tuple[ops.ByteTable, ops.ByteTable],
    ) -> None:
        self.ids = ids
        """Draft and target ids of each pair."""
        self.texts = texts
        """Draft and target tokens of each pair as bytes."""
        self.tables = tables
        """Of the draft and of the target."""

    def on(self, device: str) -> dict[str, Any]:
        """The arguments of ``ops.align`` for all pairs, without offsets."""
        draft, target = (
            torch.tensor(list(itertools.chain(*side)), device=device) for side in self.ids
        )
        tables = [table.to(device) for table in self.tables]
        return {
            "draft_ids": draft,
            "target_ids": target,
            "draft_table": tables[0],
            "target_table": tables[1],
        }


def real_pairs(tokens: int, count: int) -> Pairs:
    windows = real_windows(tokens, count)
    both = vocabularies()
    texts = [
        tuple([vocab.token_bytes(i) for i in ids] for vocab, ids in zip(both, window, strict=True))
        for window in windows
    ]
    ids = ([d for d, _ in windows], [t for _, t in windows])
    return Pairs(ids, texts, (both[0].table, both[1].table))


def random_pairs(tokens: int, count: int) -> Pairs:
    """Random texts cut in two ways."""
    generator = torch.Generator().manual_seed(0)
    ids: tuple[list[list[int]], list[list[int]]] = ([], [])
    known: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
    texts = []
    for _ in range(count):
        text = bytes(torch.randint(97, 123, (5 * tokens,), generator=generator).tolist())
        both = []
        for side in range(2):
            cuts = torch.randperm(len(text) - 1, generator=generator)[: tokens - 1] + 1
            edges = [0, *sorted(cuts.tolist()), len(text)]
            pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
            ids[side].append([known[side].setdefault(p, len(known[side])) for p in pieces])
            both.append(pieces)
        texts.append(tuple(both))
    draft_table, target_table = (
        ops.ByteTable(
            torch.tensor(list(b"".join(side)), dtype=torch.uint8),
            torch.tensor([0, *itertools.accumulate(map(len, side))]),
        )
        for side in known
    )
    return Pairs(ids, texts, (draft_table, target_table))


def random_map() -> Tensor:
    """A target token for each draft token: mostly its own, else one of a few common ones."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randperm(TARGET, generator=generator)[:DRAFT]
    common = (300 * torch.rand(DRAFT, generator=generator) ** 4).long()
    return torch.where(torch.rand(DRAFT, generator=generator) < 0.8, own, common).int()


def random_exact() -> Tensor:
    """The target token of equal bytes for each draft token, or -1."""
    own = random_map()
    return torch.where(own < 300, -1, own)


def real_exact() -> Tensor:
    """The same of SmolLM2 and Gemma."""
    draft_vocab, target_vocab = vocabularies()
    ids = {target_vocab.token_bytes(i): i for i in reversed(range(len(target_vocab)))}
    spelled = (draft_vocab.token_bytes(d) for d in range(len(draft_vocab)))
    exact = [ids.get(text, -1) if text else -1 for text in spelled]
    return torch.tensor(exact, dtype=torch.int32)
