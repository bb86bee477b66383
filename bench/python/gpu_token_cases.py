"""Operations on a GPU that tell which draft token goes with which target token."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from case import require
from gpu_case import GpuCase
from tokentiming import ops

DRAFT, TARGET = 49_152, 262_144  # SmolLM2's and Gemma's


# ---- align ----


class Pieces:
    """Texts cut in two ways, and the pieces as two vocabularies."""

    def __init__(self, pairs: int, tokens: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids: list[list[int]] = [[], []]
        self.tables: list[ops.ByteTable] = []
        found: list[dict[bytes, int]] = [{}, {}]
        for _ in range(pairs):
            text = bytes(torch.randint(97, 123, (5 * tokens,), generator=generator).tolist())
            for side in range(2):
                cuts = torch.randperm(len(text) - 1, generator=generator)[: tokens - 1] + 1
                edges = [0, *sorted(cuts.tolist()), len(text)]
                for start, end in itertools.pairwise(edges):
                    known = found[side]
                    self.ids[side].append(known.setdefault(text[start:end], len(known)))
        for known in found:
            offsets = torch.tensor([0, *itertools.accumulate(map(len, known))])
            joined = torch.tensor(list(b"".join(known)), dtype=torch.uint8)
            self.tables.append(ops.ByteTable(joined, offsets))

    def arguments(self, device: str, offsets: Tensor) -> dict[str, Any]:
        """Of `ops.align`."""
        ids = [torch.tensor(side, device=device) for side in self.ids]
        tables = [table.to(device) for table in self.tables]
        return {
            "draft_ids": ids[0],
            "target_ids": ids[1],
            "draft_table": tables[0],
            "target_table": tables[1],
            "draft_offsets": offsets.to(device),
            "target_offsets": offsets.to(device),
        }


def align_case(pairs: int = 256, tokens: int = 16) -> GpuCase:
    pieces = Pieces(pairs, tokens)
    offsets = torch.arange(pairs + 1) * tokens
    on_gpu = pieces.arguments("cuda", offsets)
    out = ops.align(**on_gpu)

    def ours(_: int) -> ops.Alignment:
        return ops.align(**on_gpu, out=out)

    def check() -> None:
        expected = ops.align(**pieces.arguments("cpu", offsets))
        found = ours(0)
        require(torch.equal(found.target_spans.cpu(), expected.target_spans), "the CPU: spans")
        require(torch.equal(found.cost.cpu(), expected.cost), "the CPU: costs")

    size = f"B = {pairs}, {tokens} x {tokens} tokens"
    return GpuCase("align", size, [("ours, out=", ours, True)], check, 1, 0.0)


# ---- transfer and restrict ----


def vocabulary_map() -> Tensor:
    """Most draft tokens have one of their own; many of the rest begin with a few common ones."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randperm(TARGET, generator=generator)[:DRAFT]
    common = (300 * torch.rand(DRAFT, generator=generator) ** 4).long()
    return torch.where(torch.rand(DRAFT, generator=generator) < 0.8, own, common)


def transfer_case(tokens: int = 64, sets: int = 3) -> GpuCase:
    """Sequences of one token, so that every distribution is a push-forward."""
    first = vocabulary_map().int()
    every = torch.arange(DRAFT + 1)
    mapped = ops.VocabularyMap(first, first, every, first)
    generator = torch.Generator("cuda").manual_seed(0)
    ids = torch.randint(DRAFT, (tokens,), generator=generator, device="cuda")
    one_byte = ops.ByteTable(torch.zeros(TARGET, dtype=torch.uint8), torch.arange(TARGET + 1))
    spans = torch.tensor([[0, 1]], dtype=torch.int32).repeat(tokens, 1)
    offsets = torch.arange(tokens + 1)
    rows = [
        torch.randn(tokens, DRAFT, generator=generator, device="cuda").softmax(-1)
        for _ in range(sets)
    ]

    def arguments(device: str, k: int) -> dict[str, Any]:
        table, starts = one_byte.to(device), offsets.to(device)
        return {
            "draft_probs": rows[k].to(device),
            "draft_ids": ids.to(device),
            "target_ids": first.cuda()[ids].long().to(device),
            "target_spans": spans.to(device),
            "draft_table": table,
            "target_table": table,
            "vocabulary_map": mapped.to(device),
            "draft_offsets": starts,
            "target_offsets": starts,
        }

    on_gpu = [arguments("cuda", k) for k in range(sets)]
    outs = [
        ops.Transfer(
            torch.empty(tokens, TARGET, device="cuda"),
            torch.empty(tokens, dtype=torch.int8, device="cuda"),
        )
        for _ in range(sets)
    ]
    places = first.cuda().long()

    def ours(k: int) -> ops.Transfer:
        return ops.transfer(**on_gpu[k], out=outs[k])

    def plain(k: int) -> Tensor:
        return rows[k].new_zeros(tokens, TARGET).index_add_(1, places, rows[k])

    def check() -> None:
        expected = ops.transfer(**arguments("cpu", 0), columns=TARGET)
        found = ours(0)
        require(torch.equal(found.probs.cpu(), expected.probs), "the CPU: distributions")
        require(torch.equal(found.cases.cpu(), expected.cases), "the CPU: cases")
        require(torch.allclose(plain(0), found.probs, rtol=1e-4, atol=1e-9), "torch: distributions")

    least = 4.0 * tokens * (DRAFT + TARGET) + 4 * (DRAFT + TARGET)
    ways = [("ours, out=", ours, True), ("torch: index_add_ (any order)", plain, True)]
    return GpuCase("transfer", f"{tokens} x {DRAFT:,} to {TARGET:,}", ways, check, sets, least)


def restrict_case(rows_count: int = 64, sets: int = 3) -> GpuCase:
    exact = vocabulary_map().int()
    exact = torch.where(exact < 300, -1, exact)
    none = torch.zeros(DRAFT + 1, dtype=torch.int64)
    mapped = ops.VocabularyMap(exact, torch.full_like(exact, -1), none, exact[:0])
    shared = torch.nonzero(exact >= 0)[:, 0].cuda()
    places = exact.cuda()[shared].long()
    generator = torch.Generator("cuda").manual_seed(0)
    rows = [
        torch.randn(rows_count, DRAFT, generator=generator, device="cuda").softmax(-1)
        for _ in range(sets)
    ]
    outs = [torch.empty(rows_count, TARGET, device="cuda") for _ in range(sets)]
    on_gpu = mapped.to("cuda")

    def ours(k: int) -> Tensor:
        return ops.restrict(rows[k], on_gpu, columns=TARGET, out=outs[k])

    def plain(k: int) -> Tensor:
        out = rows[k].new_zeros(rows_count, TARGET)
        out[:, places] = rows[k][:, shared]
        return out.div_(out.sum(-1, keepdim=True))

    def check() -> None:
        expected = ops.restrict(rows[0].cpu(), mapped, columns=TARGET)
        require(torch.allclose(ours(0).cpu(), expected, rtol=1e-6), "the CPU: distributions")
        require(torch.allclose(plain(0), ours(0), rtol=1e-4), "torch: distributions")

    least = 4.0 * rows_count * (DRAFT + TARGET) + 4 * (DRAFT + TARGET)
    ways = [("ours, out=", ours, True), ("plain torch", plain, True)]
    return GpuCase("restrict", f"{rows_count} x {DRAFT:,} to {TARGET:,}", ways, check, sets, least)
