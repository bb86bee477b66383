"""The operations on a GPU beside what one would use instead, at the sizes of a served batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import SimpleNamespace

import torch
from torch import Tensor

from case import require
from gpu_timing import Run
from tokentiming import ops

HEAD = 151_936  # Qwen2.5's vocabulary
DRAFT, TARGET = 49_152, 262_144  # SmolLM2's and Gemma's


@dataclass
class GpuCase:
    """Ways to do one thing, ours first: name, what to run, and whether a graph may hold it."""

    operation: str
    size: str
    ways: list[tuple[str, Run, bool]]
    check: Callable[[], None]
    """Raises where the ways disagree."""
    sets: int
    least_bytes: float
    """What must be read or written at least once, a call."""
    instructions: float = 0.0
    """Of one lane, a call, where they and not memory are the bound."""
    missing: list[str] = field(default_factory=list)
    """Peers that do not run here, and why."""


# ---- verify ----


def verify_case(batch: int = 64, drafted: int = 7, columns: int = HEAD, sets: int = 3) -> GpuCase:
    """Logits in; each token is accepted with probability 0.8."""

    def inputs(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator("cuda").manual_seed(seed)
        shape = (batch, drafted + 1, columns)
        target = 3 * torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
        draft = target[:, :drafted].clone()
        draft += 0.3 * torch.randn_like(draft)
        ids = torch.randint(columns, (batch, drafted), generator=generator, device="cuda")
        accepted = torch.rand(batch, drafted, generator=generator, device="cuda") < 0.8
        # Uniforms far from the ratio on either side of it.
        low = torch.where(accepted, -40.0, 20.0).to(draft.dtype)
        high = torch.where(accepted, 10.0, -40.0).to(draft.dtype)
        draft.scatter_(2, ids[..., None], low[..., None])
        target[:, :drafted].scatter_(2, ids[..., None], high[..., None])
        uniforms = torch.rand(batch, drafted + 1, generator=generator, device="cuda")
        return ids, draft, target, uniforms.clamp_(0.05, 0.95)

    tensors = [inputs(seed) for seed in range(sets)]
    outs = [
        ops.Verification(
            torch.empty((batch, drafted + 1), dtype=torch.int32, device="cuda"),
            torch.empty(batch, dtype=torch.int32, device="cuda"),
        )
        for _ in range(sets)
    ]

    def ours(k: int) -> ops.Verification:
        ids, draft, target, uniforms = tensors[k]
        return ops.verify(
            ids, draft_logits=draft, target_logits=target, uniforms=uniforms, out=outs[k]
        )

    def plain(k: int) -> tuple[Tensor, Tensor]:
        return torch_verify(*tensors[k])

    def transformers(k: int) -> list[tuple[Tensor, Tensor]]:
        from transformers.generation.utils import _speculative_sampling

        ids, draft, target, _ = tensors[k]
        return [
            _speculative_sampling(
                ids[b : b + 1], draft[b : b + 1].float(), drafted, target[b : b + 1].float()
            )
            for b in range(batch)
        ]

    peers: dict[str, Run] = {}
    missing: list[str] = []
    for name, make in (("flashinfer", _flashinfer), ("vllm", _vllm)):
        if find_spec(name) is None:
            missing.append(f"{name}: not installed")
            continue
        try:
            run = make(tensors)
            run(0)
            peers[f"{name}, softmax before it"] = run
        except Exception as error:  # a release that is called otherwise
            missing.append(f"{name}: {type(error).__name__}")

    def check() -> None:
        for k in range(sets):
            tokens, accepted = plain(k)
            result = ours(k)
            require(torch.equal(result.accepted.long(), accepted), "torch: tokens accepted")
            # A threshold beside an entry's edge may fall on either side of it in float32.
            agreed = (result.tokens.long() == tokens).all(1).float().mean()
            require(float(agreed) >= 0.9, f"torch: tokens, {float(agreed):.2f} of the chains")
            # Acceptances here are certain whatever the uniforms, so that all have as many.
            count = torch.stack([n for _, n in transformers(k)]).flatten()
            require(torch.equal(count.long(), accepted), "transformers: tokens accepted")
            for name, run in peers.items():
                count = (run(k) != -1).sum(1) - 1
                require(torch.equal(count.long(), accepted), f"{name}: tokens accepted")

    # A chain reads a row of either law for each position, and one of the target's if all pass.
    rows = 0.0
    for k in range(sets):
        accepted = ours(k).accepted.float()
        whole = (accepted == drafted).float()
        rows += float((2 * (accepted + 1 - whole) + whole).sum()) / sets
    ways = [
        ("ours, out=", ours, True),
        ("plain torch", plain, True),
        ("transformers, a chain at a time", transformers, False),
        *((name, run, False) for name, run in peers.items()),
    ]
    return GpuCase(
        "verify", f"B = {batch}, K = {drafted}, {columns:,}, bfloat16, {rows:.0f} rows", ways,
        check, sets, rows * columns * 2, missing=missing,
    )  # fmt: skip


def torch_verify(
    ids: Tensor, draft: Tensor, target: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """A batch of chains with every row normalised; tokens ``[B, K + 1]`` and counts."""
    q, p = draft.float().softmax(-1), target.float().softmax(-1)
    drafted = ids.shape[1]
    ratio_p = p[:, :-1].gather(2, ids[..., None])[..., 0]
    ratio_q = q.gather(2, ids[..., None])[..., 0]
    count = (uniforms[:, :-1] * ratio_q < ratio_p).int().cumprod(1).sum(1)
    q = torch.cat([q, torch.zeros_like(q[:, :1])], 1)
    place = count[:, None, None].expand(-1, 1, p.shape[2])
    weights = (p.gather(1, place) - q.gather(1, place))[:, 0].clamp_(min=0).double().cumsum(-1)
    threshold = uniforms[:, -1:].double() * weights[:, -1:]
    token = torch.searchsorted(weights, threshold, right=True)
    positions = torch.arange(drafted + 1, device=ids.device)
    padded = torch.cat([ids, ids[:, :1]], 1)
    tokens = torch.where(positions < count[:, None], padded, -1)
    return tokens.scatter(1, count[:, None], token), count


def _flashinfer(tensors: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Run:
    from flashinfer.sampling import chain_speculative_sampling

    def run(k: int) -> Tensor:
        ids, draft, target, _ = tensors[k]
        tokens, *_ = chain_speculative_sampling(
            draft.float().softmax(-1), ids.int(), target.float().softmax(-1)
        )
        return tokens

    return run


def _vllm(tensors: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Run:
    from vllm.v1.sample.rejection_sampler import rejection_sample

    sampled = SimpleNamespace(all_greedy=False, all_random=True, generators={}, temperature=None)

    def run(k: int) -> Tensor:
        ids, draft, target, _ = tensors[k]
        batch, drafted = ids.shape
        counts = [drafted] * batch
        ends = torch.arange(1, batch + 1, device=ids.device, dtype=torch.int32) * drafted
        p = target.float().softmax(-1)
        bonus = p[:, -1].argmax(-1, keepdim=True)
        return rejection_sample(
            ids.int().flatten(), counts, drafted, ends, draft.float().softmax(-1).flatten(0, 1),
            p[:, :-1].flatten(0, 1), bonus.int(), sampled,
        )  # fmt: skip

    return run


# ---- sample ----

INSTRUCTIONS_A_LOGIT = 48  # counted in csrc/cuda/sample.cuh


def sample_case(rows: int = 512, columns: int = HEAD, sets: int = 2) -> GpuCase:
    generator = torch.Generator("cuda").manual_seed(0)
    keys = torch.randint(-(2**63), 2**63 - 1, (columns,), generator=generator, device="cuda")
    states = torch.stack(
        [torch.arange(rows), torch.arange(rows) % 7, torch.zeros(rows)], 1
    ).long().cuda()  # fmt: skip
    logits = [
        3 * torch.randn(rows, columns, generator=generator, device="cuda", dtype=torch.bfloat16)
        for _ in range(sets)
    ]
    outs = [torch.empty(rows, dtype=torch.int64, device="cuda") for _ in range(sets)]

    def ours(k: int) -> Tensor:
        return ops.sample(logits[k], keys, seed=0, states=states, out=outs[k])

    def plain(k: int) -> Tensor:
        exponentials = torch.empty(rows, columns, device="cuda").exponential_()
        return logits[k].float().softmax(-1).div_(exponentials).argmax(-1)

    def check() -> None:
        some = slice(0, 8)
        expected = ops.sample(logits[0][some].cpu(), keys.cpu(), seed=0, states=states[some].cpu())
        require(torch.equal(ours(0)[some].cpu(), expected), "the CPU: ids")

    return GpuCase(
        "sample", f"{rows} x {columns:,}, bfloat16",
        [("ours, out=", ours, True), ("torch: softmax, exponential_, argmax", plain, False)],
        check, sets, 2 * rows * columns + 8 * columns,
        instructions=INSTRUCTIONS_A_LOGIT * rows * columns,
    )  # fmt: skip


# ---- align ----


class Pieces:
    """Texts cut in two ways, and the pieces as two vocabularies."""

    def __init__(self, pairs: int, tokens: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids: list[list[int]] = [[], []]
        self.tables: list[tuple[Tensor, Tensor]] = []
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
            self.tables.append((torch.tensor(list(b"".join(known)), dtype=torch.uint8), offsets))


class Table:
    """A byte table in one place."""

    def __init__(self, table: tuple[Tensor, Tensor], device: str) -> None:
        self.bytes, self.offsets = (part.to(device) for part in table)


def align_case(pairs: int = 256, tokens: int = 16) -> GpuCase:
    pieces = Pieces(pairs, tokens)
    offsets = torch.arange(pairs + 1) * tokens

    def call(device: str, out: ops.Alignment | None = None) -> ops.Alignment:
        ids = [torch.tensor(side, device=device) for side in pieces.ids]
        tables = [Table(table, device) for table in pieces.tables]
        starts = offsets.to(device)
        return ops.align(*ids, *tables, draft_offsets=starts, target_offsets=starts, out=out)

    ids = [torch.tensor(side, device="cuda") for side in pieces.ids]
    tables = [Table(table, "cuda") for table in pieces.tables]
    starts = offsets.cuda()
    out = ops.align(*ids, *tables, draft_offsets=starts, target_offsets=starts)

    def ours(_: int) -> ops.Alignment:
        return ops.align(*ids, *tables, draft_offsets=starts, target_offsets=starts, out=out)

    def check() -> None:
        expected = call("cpu")
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
    """Sequences of one token, so that every law is a push-forward."""
    first = vocabulary_map().int()
    every = torch.arange(DRAFT + 1)
    origins = ops.Origins.of(first)
    generator = torch.Generator("cuda").manual_seed(0)
    ids = torch.randint(DRAFT, (tokens,), generator=generator, device="cuda")
    one_byte = (torch.zeros(TARGET, dtype=torch.uint8), torch.arange(TARGET + 1))
    spans = torch.tensor([[0, 1]], dtype=torch.int32).repeat(tokens, 1)
    offsets = torch.arange(tokens + 1)
    rows = [
        torch.randn(tokens, DRAFT, generator=generator, device="cuda").softmax(-1)
        for _ in range(sets)
    ]

    class Expansions:
        def __init__(self, device: str) -> None:
            self.first = first.to(device)
            self.expansion_offsets = every.to(device)
            self.expansion_ids = self.first
            self.first_origins = ops.Origins(*(part.to(device) for part in origins))

    def arguments(device: str, k: int) -> tuple[object, ...]:
        table = Table(one_byte, device)
        moved = (rows[k], ids, first.cuda()[ids].long(), spans)
        return (*(t.to(device) for t in moved), table, table, Expansions(device))

    on_gpu = [arguments("cuda", k) for k in range(sets)]
    starts = offsets.cuda()
    outs = [
        ops.Transfer(
            torch.empty(tokens, TARGET, device="cuda"),
            torch.empty(tokens, dtype=torch.int8, device="cuda"),
        )
        for _ in range(sets)
    ]
    places = first.cuda().long()

    def ours(k: int) -> ops.Transfer:
        return ops.transfer(*on_gpu[k], draft_offsets=starts, target_offsets=starts, out=outs[k])

    def plain(k: int) -> Tensor:
        return rows[k].new_zeros(tokens, TARGET).index_add_(1, places, rows[k])

    def check() -> None:
        expected = ops.transfer(
            *arguments("cpu", 0), draft_offsets=offsets, target_offsets=offsets, columns=TARGET
        )
        found = ours(0)
        require(torch.equal(found.probs.cpu(), expected.probs), "the CPU: laws")
        require(torch.equal(found.cases.cpu(), expected.cases), "the CPU: cases")
        require(torch.allclose(plain(0), found.probs, rtol=1e-4, atol=1e-9), "torch: laws")

    least = 4.0 * tokens * (DRAFT + TARGET) + 4 * (DRAFT + TARGET)
    ways = [("ours, out=", ours, True), ("torch: index_add_ (any order)", plain, True)]
    return GpuCase("transfer", f"{tokens} x {DRAFT:,} to {TARGET:,}", ways, check, sets, least)


def restrict_case(rows_count: int = 64, sets: int = 3) -> GpuCase:
    exact = vocabulary_map().int()
    exact = torch.where(exact < 300, -1, exact)
    origins = ops.Origins(*(part.cuda() for part in ops.Origins.of(exact)))
    shared = torch.nonzero(exact >= 0)[:, 0].cuda()
    places = exact.cuda()[shared].long()
    generator = torch.Generator("cuda").manual_seed(0)
    rows = [
        torch.randn(rows_count, DRAFT, generator=generator, device="cuda").softmax(-1)
        for _ in range(sets)
    ]
    outs = [torch.empty(rows_count, TARGET, device="cuda") for _ in range(sets)]
    on_gpu = exact.cuda()

    def ours(k: int) -> Tensor:
        return ops.restrict(rows[k], on_gpu, columns=TARGET, origins=origins, out=outs[k])

    def plain(k: int) -> Tensor:
        out = rows[k].new_zeros(rows_count, TARGET)
        out[:, places] = rows[k][:, shared]
        return out.div_(out.sum(-1, keepdim=True))

    def check() -> None:
        expected = ops.restrict(rows[0].cpu(), exact, columns=TARGET)
        require(torch.allclose(ours(0).cpu(), expected, rtol=1e-6), "the CPU: laws")
        require(torch.allclose(plain(0), ours(0), rtol=1e-4), "torch: laws")

    least = 4.0 * rows_count * (DRAFT + TARGET) + 4 * (DRAFT + TARGET)
    ways = [("ours, out=", ours, True), ("plain torch", plain, True)]
    return GpuCase("restrict", f"{rows_count} x {DRAFT:,} to {TARGET:,}", ways, check, sets, least)
