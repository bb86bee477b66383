"""Operations between two vocabularies."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

import peers
from case import Case, Run, cold_sets, require
from pairs import (
    DRAFT,
    TARGET,
    random_exact,
    random_map,
    random_pairs,
    real_exact,
    real_pairs,
    real_windows,
    vocabularies,
)
from tokentiming import VocabularyMap, ops

# ---- align ----


def align_case(device: str = "cpu", tokens: int = 16, band: int = 8, count: int = 64) -> Case:
    """All pairs in one call; on a CPU also one call a pair, beside Python's ways."""
    pairs = (real_pairs if device == "cpu" else random_pairs)(tokens, count)
    arguments = pairs.on(device)
    starts = torch.arange(count + 1, device=device) * tokens
    offsets: Any = {"draft_offsets": starts, "target_offsets": starts}
    out = ops.align(**arguments, band=band, **offsets)

    def batch(_: int) -> ops.Alignment:
        return ops.align(**arguments, band=band, out=out, **offsets)

    if device != "cpu":

        def check_batch() -> None:
            cpu_offsets = {name: tensor.cpu() for name, tensor in offsets.items()}
            expected = ops.align(**pairs.on("cpu"), band=band, **cpu_offsets)
            found = batch(0)
            require(torch.equal(found.target_spans.cpu(), expected.target_spans), "the CPU: spans")
            require(torch.equal(found.cost.cpu(), expected.cost), "the CPU: costs")

        size = f"B = {count}, {tokens} x {tokens} tokens, band {band}"
        return Case("align", size, {"ours, out=": batch}, check_batch)

    sides = (arguments[side].split(tokens) for side in ("draft_ids", "target_ids"))
    singles = [arguments | {"draft_ids": d, "target_ids": t} for d, t in zip(*sides, strict=True)]
    single_out = ops.Alignment(
        torch.empty((tokens, 2), dtype=torch.int32), torch.empty((), dtype=torch.int64)
    )

    def each(_: int, out: ops.Alignment | None = None) -> None:
        for single in singles:
            ops.align(**single, band=band, out=out)

    def one_thread(_: int) -> ops.Alignment:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return batch(0)
        finally:
            torch.set_num_threads(threads)

    python = {
        "Python DTW, tightened": peers.dtw_tightened,
        "Python DTW, rapidfuzz": peers.dtw_rapidfuzz,
        "Python DTW, editdistance": peers.dtw_editdistance,
    }
    peer_ways: dict[str, Run] = {
        name: partial(lambda dtw, _: [dtw(d, t, band) for d, t in pairs.texts], dtw)
        for name, dtw in python.items()
    }

    def check() -> None:
        each(0, single_out)
        spans = [ops.align(**single, band=band).target_spans for single in singles]
        require(torch.equal(single_out.target_spans, spans[-1]), "out=: spans")
        require(torch.equal(one_thread(0).target_spans, torch.cat(spans)), "a batch: spans")
        expected = [list(map(tuple, each_pair.tolist())) for each_pair in spans]
        for name, run in peer_ways.items():
            require(run(0) == expected, f"{name}: spans")

    ways: dict[str, Run] = {
        "ours, out=": partial(each, out=single_out),
        "ours": each,
        f"ours, a pair of {count} in a call, one thread": one_thread,
        **peer_ways,
    }
    size = f"{tokens} x {tokens} tokens, band {band}"
    return Case("align", size, ways, check, count=count)


# ---- transfer ----


def real_transfer_case(tokens: int = 8) -> Case:
    """Texts in SmolLM2's and Gemma's tokens, one sequence a call."""
    draft_vocab, target_vocab = vocabularies()
    columns = len(target_vocab)
    mapped = VocabularyMap.build(draft_vocab, target_vocab)
    lists = [mapped.expansion(d) for d in range(len(draft_vocab))]
    peer = peers.TorchTransfer(mapped.first.long(), lists)
    texts = [draft for draft, _ in real_windows(tokens, 8)]
    sets = cold_sets(4 * tokens * (len(draft_vocab) + columns))

    def inputs(seed: int) -> tuple[dict[str, Any], ops.Transfer, tuple[Any, ...]]:
        draft_ids = torch.tensor(texts[seed % len(texts)])
        target_ids = torch.tensor(target_vocab.encode(draft_vocab.decode(draft_ids.tolist())))
        arguments: dict[str, Any] = {
            "draft_ids": draft_ids,
            "target_ids": target_ids,
            "draft_table": draft_vocab.table,
            "target_table": target_vocab.table,
        }
        spans = ops.align(**arguments).target_spans
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(tokens, len(draft_vocab), generator=generator).softmax(-1)
        arguments |= {"draft_probs": rows, "target_spans": spans, "vocabulary_map": mapped.core}
        cases = ops.transfer(**arguments).cases
        out = ops.Transfer(torch.empty(len(target_ids), columns), torch.empty_like(cases))
        given = (draft_ids.tolist(), target_ids.tolist(), spans.tolist(), cases.tolist())
        return arguments, out, (rows, *given)

    inputs_of = [inputs(seed) for seed in range(sets)]

    def ours(k: int) -> ops.Transfer:
        arguments, out, _ = inputs_of[k]
        return ops.transfer(**arguments, out=out)

    def plain(k: int) -> Tensor:
        _, out, given = inputs_of[k]
        return peer(*given, out.probs)

    def check() -> None:
        for k in range(sets):
            expected = ours(k).probs.clone()
            require(torch.allclose(plain(k), expected, rtol=1e-4, atol=1e-9), "torch: probs")

    # Every draft row is read, except those that a merge covers.
    proxies = sum(len(out.cases) for _, out, _ in inputs_of) / sets
    least = 4 * tokens * len(draft_vocab) + 4 * len(draft_vocab) + int(4 * proxies * columns)
    size = f"{tokens} x {len(draft_vocab):,} to {proxies:.1f} x {columns:,}"
    return Case("transfer", size, {"ours, out=": ours, "plain torch": plain}, check, sets, least)


def random_transfer_case(device: str, tokens: int = 64, sets: int = 3) -> Case:
    """Sequences of one token, so that every distribution is a push-forward."""
    first = random_map()
    mapped = ops.VocabularyMap(first, first, torch.arange(DRAFT + 1), first)
    generator = torch.Generator(device).manual_seed(0)
    ids = torch.randint(DRAFT, (tokens,), generator=generator, device=device)
    one_byte = ops.ByteTable(torch.zeros(TARGET, dtype=torch.uint8), torch.arange(TARGET + 1))
    spans = torch.tensor([[0, 1]], dtype=torch.int32).repeat(tokens, 1)
    offsets = torch.arange(tokens + 1)
    rows = [
        torch.randn(tokens, DRAFT, generator=generator, device=device).softmax(-1)
        for _ in range(sets)
    ]
    to = first.to(device).long()

    def arguments(where: str, k: int) -> dict[str, Any]:
        table, starts = one_byte.to(where), offsets.to(where)
        return {
            "draft_probs": rows[k].to(where),
            "draft_ids": ids.to(where),
            "target_ids": to[ids].to(where),
            "target_spans": spans.to(where),
            "draft_table": table,
            "target_table": table,
            "vocabulary_map": mapped.to(where),
            "draft_offsets": starts,
            "target_offsets": starts,
        }

    on_device = [arguments(device, k) for k in range(sets)]
    outs = [
        ops.Transfer(
            torch.empty(tokens, TARGET, device=device),
            torch.empty(tokens, dtype=torch.int8, device=device),
        )
        for _ in range(sets)
    ]

    def ours(k: int) -> ops.Transfer:
        return ops.transfer(**on_device[k], out=outs[k])

    def plain(k: int) -> Tensor:
        return rows[k].new_zeros(tokens, TARGET).index_add_(1, to, rows[k])

    def check() -> None:
        expected = ops.transfer(**arguments("cpu", 0), columns=TARGET)
        found = ours(0)
        require(torch.equal(found.probs.cpu(), expected.probs), "the CPU: distributions")
        require(torch.equal(found.cases.cpu(), expected.cases), "the CPU: cases")
        require(torch.allclose(plain(0), found.probs, rtol=1e-4, atol=1e-9), "torch: probs")

    least = 4.0 * tokens * (DRAFT + TARGET) + 4 * (DRAFT + TARGET)
    ways: dict[str, Run] = {"ours, out=": ours, "torch: index_add_ (any order)": plain}
    return Case("transfer", f"{tokens} x {DRAFT:,} to {TARGET:,}", ways, check, sets, least)


def transfer_case(device: str = "cpu") -> Case:
    return real_transfer_case() if device == "cpu" else random_transfer_case(device)


# ---- restrict ----


def restrict_case(device: str = "cpu", rows: int = 8, sets: int = 0) -> Case:
    exact = real_exact() if device == "cpu" else random_exact()
    drafts, columns = len(exact), len(vocabularies()[1]) if device == "cpu" else TARGET
    shared = torch.nonzero(exact >= 0)[:, 0]
    places = exact[shared].long()
    require(len(places.unique()) == len(places), "two draft tokens with equal bytes")
    least = 4 * rows * (drafts + columns) + exact.itemsize * drafts
    sets = sets or cold_sets(least)
    generator = torch.Generator(device).manual_seed(0)
    probs = [
        torch.randn(rows, drafts, generator=generator, device=device).softmax(-1)
        for _ in range(sets)
    ]
    outs = [torch.empty(rows, columns, device=device) for _ in range(sets)]
    shared, places = shared.to(device), places.to(device)
    no_offsets = torch.zeros(drafts + 1, dtype=torch.int64)
    mapped = ops.VocabularyMap(exact, torch.full_like(exact, -1), no_offsets, exact[:0])
    on_device = mapped.to(device)

    def ours(k: int) -> Tensor:
        return ops.restrict(probs[k], on_device, columns=columns, out=outs[k])

    def plain(k: int) -> Tensor:
        return peers.torch_restrict(probs[k], shared, places, outs[k])

    def check() -> None:
        for k in range(sets):
            expected = ours(k).clone()
            require(torch.allclose(plain(k), expected, rtol=1e-4), "torch: distributions")
        on_cpu = ops.restrict(probs[0].cpu(), mapped, columns=columns)
        require(torch.allclose(ours(0).cpu(), on_cpu, rtol=1e-6), "the CPU: distributions")

    size = f"{rows} x {drafts:,} to {columns:,}"
    ways: dict[str, Run] = {"ours, out=": ours, "plain torch": plain}
    return Case("restrict", size, ways, check, sets, least)
