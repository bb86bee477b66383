"""Operations that need real tokens: SmolLM2's and Gemma's, of the prompts beside."""

from __future__ import annotations

import itertools
import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

import peers
from case import Case, cold, require
from tokentiming import Vocabulary, VocabularyMap, ops
from tokentiming.cli import demo_models as models

PROMPTS = Path(__file__).parent.parent / "data" / "prompts.jsonl"


@cache
def vocabulary(name: str) -> Vocabulary:
    return Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(models.pull(name)))


def token_pairs(tokens: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Windows of so many SmolLM2 and Gemma tokens that start at one byte of a prompt."""

    def starts(vocab: Vocabulary, ids: list[int]) -> dict[int, int]:
        lengths = (len(vocab.token_bytes(i)) for i in ids)
        return {byte: k for k, byte in enumerate(itertools.accumulate(lengths, initial=0))}

    draft_vocab, target_vocab = vocabulary("smollm2-135m"), vocabulary("gemma-3-270m")
    pairs = []
    for line in PROMPTS.read_text().splitlines():
        text = json.loads(line)["prompt"].encode()
        draft, target = draft_vocab.encode(text), target_vocab.encode(text)
        target_starts = starts(target_vocab, target)
        for byte, i in starts(draft_vocab, draft).items():
            j = target_starts.get(byte)
            if j is not None and max(i + tokens - len(draft), j + tokens - len(target)) <= 0:
                pairs.append((torch.tensor(draft[i:][:tokens]), torch.tensor(target[j:][:tokens])))
    return pairs[:: max(1, len(pairs) // count)][:count]


def align_case(tokens: int = 16, band: int = 8, count: int = 64) -> Case:
    draft_vocab, target_vocab = vocabulary("smollm2-135m"), vocabulary("gemma-3-270m")
    pairs = token_pairs(tokens, count)
    texts = [
        ([draft_vocab.token_bytes(i) for i in d.tolist()],
         [target_vocab.token_bytes(i) for i in t.tolist()])
        for d, t in pairs
    ]  # fmt: skip
    out = ops.Alignment(
        torch.empty((tokens, 2), dtype=torch.int32), torch.empty((), dtype=torch.int64)
    )
    draft_ids, target_ids = (torch.cat(side) for side in zip(*pairs, strict=True))
    offsets = torch.arange(len(pairs) + 1) * tokens
    batch_out = ops.Alignment(
        torch.empty((len(target_ids), 2), dtype=torch.int32),
        torch.empty(len(pairs), dtype=torch.int64),
    )

    draft_table, target_table = draft_vocab.table, target_vocab.table

    def ours() -> None:
        for draft, target in pairs:
            ops.align(
                draft_ids=draft,
                target_ids=target,
                draft_table=draft_table,
                target_table=target_table,
                band=band,
                out=out,
            )

    def ours_allocating() -> list[ops.Alignment]:
        return [
            ops.align(
                draft_ids=draft,
                target_ids=target,
                draft_table=draft_table,
                target_table=target_table,
                band=band,
            )
            for draft, target in pairs
        ]

    def core() -> ops.Alignment:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return ops.align(
                draft_ids=draft_ids,
                target_ids=target_ids,
                draft_table=draft_table,
                target_table=target_table,
                band=band,
                draft_offsets=offsets,
                target_offsets=offsets,
                out=batch_out,
            )
        finally:
            torch.set_num_threads(threads)

    python = {
        "Python DTW, tightened": peers.dtw_tightened,
        "Python DTW, rapidfuzz": peers.dtw_rapidfuzz,
        "Python DTW, editdistance": peers.dtw_editdistance,
    }
    peer_ways = {
        name: partial(lambda dtw: [dtw(draft, target, band) for draft, target in texts], dtw)
        for name, dtw in python.items()
    }

    def check() -> None:
        ours()
        single = [found.target_spans for found in ours_allocating()]
        require(torch.equal(out.target_spans, single[-1]), "out=: spans")
        require(torch.equal(core().target_spans, torch.cat(single)), "a batch of pairs: spans")
        expected = [list(map(tuple, spans.tolist())) for spans in single]
        for name, run in peer_ways.items():
            require(run() == expected, f"{name}: spans")

    ways = {
        "ours, out=": ours,
        "ours": ours_allocating,
        f"ours, a pair of {len(pairs)} in a call, one thread": core,
        **peer_ways,
    }
    return Case("align", f"{tokens} x {tokens} tokens, band {band}", ways, check, count=len(pairs))


def transfer_case(tokens: int = 8) -> Case:
    draft_vocab, target_vocab = vocabulary("smollm2-135m"), vocabulary("gemma-3-270m")
    mapped = VocabularyMap.build(draft_vocab, target_vocab)
    expansions = [mapped.expansion(d) for d in range(len(draft_vocab))]
    plain = peers.TorchTransfer(mapped.first.long(), expansions)
    columns = len(target_vocab)
    texts = [draft for draft, _ in token_pairs(tokens, 8)]

    def inputs(seed: int) -> dict[str, Any]:
        draft_ids = texts[seed % len(texts)]
        target_ids = torch.tensor(target_vocab.encode(draft_vocab.decode(draft_ids.tolist())))
        ours: dict[str, Any] = {
            "draft_ids": draft_ids,
            "target_ids": target_ids,
            "draft_table": draft_vocab.table,
            "target_table": target_vocab.table,
        }
        spans = ops.align(**ours).target_spans
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(tokens, len(draft_vocab), generator=generator).softmax(-1)
        ours |= {"draft_probs": rows, "target_spans": spans, "vocabulary_map": mapped.core}
        cases = ops.transfer(**ours).cases
        given = (draft_ids.tolist(), target_ids.tolist(), spans.tolist(), cases.tolist())
        out = ops.Transfer(torch.empty(len(target_ids), columns), torch.empty_like(cases))
        return {"ours": ours, "plain": (rows, *given), "out": out}

    size = 4 * tokens * (len(draft_vocab) + columns)
    sets = cold(inputs, size)
    turn, plain_turn = itertools.cycle(sets), itertools.cycle(sets)

    def ours() -> ops.Transfer:
        one = next(turn)
        return ops.transfer(**one["ours"], out=one["out"])

    def torch_way() -> Tensor:
        one = next(plain_turn)
        return plain(*one["plain"], one["out"].probs)

    def check() -> None:
        for one in sets:
            expected = ops.transfer(**one["ours"]).probs
            found = plain(*one["plain"], torch.empty_like(expected))
            require(torch.allclose(found, expected, rtol=1e-4, atol=1e-9), "torch: distributions")

    # Rows that no proxy token starts with are not read; here all but merged ones are.
    proxies = sum(len(one["ours"]["target_ids"]) for one in sets) / len(sets)
    least = 4 * tokens * len(draft_vocab) + 4 * len(draft_vocab) + int(4 * proxies * columns)
    size_name = f"{tokens} x {len(draft_vocab):,} to {proxies:.1f} x {columns:,}"
    return Case("transfer", size_name, {"ours, out=": ours, "plain torch": torch_way}, check, least)


def restrict_case(rows: int = 8) -> Case:
    draft_vocab, target_vocab = vocabulary("smollm2-135m"), vocabulary("gemma-3-270m")
    ids = {target_vocab.token_bytes(i): i for i in reversed(range(len(target_vocab)))}
    exact = torch.tensor(
        [ids.get(draft_vocab.token_bytes(d), -1) if draft_vocab.token_bytes(d) else -1
         for d in range(len(draft_vocab))]
    )  # fmt: skip
    no_offsets = torch.zeros(len(exact) + 1, dtype=torch.int64)
    mapped = ops.VocabularyMap(exact.int(), exact.int(), no_offsets, exact[:0].int())
    # Of draft tokens with equal bytes the last keeps the place, so that plain indexing agrees.
    shared = torch.nonzero(exact >= 0)[:, 0]
    places = exact[shared]
    require(len(places.unique()) == len(places), "draft tokens with equal bytes")
    columns = len(target_vocab)

    def inputs(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        probs = torch.randn(rows, len(draft_vocab), generator=generator).softmax(-1)
        return probs, torch.empty(rows, columns)

    least = 4 * rows * (len(draft_vocab) + columns) + 4 * len(draft_vocab)
    sets = cold(inputs, least)
    turn, plain_turn = itertools.cycle(sets), itertools.cycle(sets)

    def ours() -> Tensor:
        probs, out = next(turn)
        return ops.restrict(probs, mapped, columns=columns, out=out)

    def torch_way() -> Tensor:
        probs, out = next(plain_turn)
        return peers.torch_restrict(probs, shared, places, out)

    def check() -> None:
        for _ in sets:
            require(torch.allclose(torch_way().clone(), ours(), rtol=1e-4), "torch: distributions")

    size = f"{rows} x {len(draft_vocab):,} to {columns:,}"
    return Case("restrict", size, {"ours, out=": ours, "plain torch": torch_way}, check, least)
