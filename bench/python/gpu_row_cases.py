"""Operations on a GPU over rows of a vocabulary's size, at the sizes of a served batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from case import require
from gpu_case import GpuCase
from gpu_timing import Run
from tokentiming import ops

HEAD = 151_936  # Qwen2.5's vocabulary

# ---- verify ----

Chains = tuple[Tensor, Tensor, Tensor, Tensor]
"""Ids, the draft's logits, the target's, and uniforms."""


def verify_case(batch: int = 64, drafted: int = 7, columns: int = HEAD, sets: int = 3) -> GpuCase:
    """Logits in; each token is accepted with probability 0.8."""

    def inputs(seed: int) -> Chains:
        generator = torch.Generator("cuda").manual_seed(seed)
        shape = (batch, drafted + 1, columns)
        target = 3 * torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
        draft = target[:, :drafted].clone()
        draft += 0.3 * torch.randn(
            draft.shape, generator=generator, device="cuda", dtype=draft.dtype
        )
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

    ways = [("ours, out=", ours, True), ("plain torch", plain, True)]
    missing: list[str] = []

    def check() -> None:
        counts, agreed = [], []
        for k in range(sets):
            tokens, accepted = plain(k)
            result = ours(k)
            require(torch.equal(result.accepted.long(), accepted), "torch: tokens accepted")
            counts.append(accepted)
            agreed.append((result.tokens.long() == tokens).all(1))
        # A threshold beside an entry's edge may fall on either side of it in float32.
        share = float(torch.cat(agreed).float().mean())
        require(share >= 0.9, f"torch: tokens, in {share:.2f} of the chains")
        for name, make in PEERS.items():
            admit(name, make, counts)

    def admit(name: str, make: Callable[[list[Chains]], Run], counts: list[Tensor]) -> None:
        try:
            run = make(tensors)
            for k, expected in enumerate(counts):
                # Acceptances here are certain whatever the uniforms, so that all have as many.
                require(torch.equal(accepted_by(run(k)), expected), "tokens accepted")
        except Exception as error:  # not there, or a release that is called otherwise
            missing.append(f"{name}: {type(error).__name__}: {error}"[:200])
        else:
            ways.append((name, run, False))

    # A chain reads a row of either distribution for each position, and one of the target's if all
    # pass.
    rows = 0.0
    for k in range(sets):
        accepted = ours(k).accepted.float()
        whole = (accepted == drafted).float()
        rows += float((2 * (accepted + 1 - whole) + whole).sum()) / sets
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


def accepted_by(result: Any) -> Tensor:
    """How many tokens a peer accepted of each chain: ``[B]``, int64."""
    if isinstance(result, list):
        return torch.stack([count for _, count in result]).flatten()
    return (result != -1).sum(1) - 1


def _transformers(chains: list[Chains]) -> Run:
    from transformers.generation.utils import _speculative_sampling

    # Some releases want to know whether the draft ended the text.
    asked = inspect.signature(_speculative_sampling).parameters
    options = {"is_done_candidate": False} if "is_done_candidate" in asked else {}

    def run(k: int) -> list[tuple[Tensor, Tensor]]:
        ids, draft, target, _ = chains[k]
        return [
            _speculative_sampling(one[None], q[None].float(), len(one), p[None].float(), **options)
            for one, q, p in zip(ids, draft, target, strict=True)
        ]

    return run


def _flashinfer(chains: list[Chains]) -> Run:
    from flashinfer.sampling import chain_speculative_sampling

    def run(k: int) -> Tensor:
        ids, draft, target, _ = chains[k]
        tokens, *_ = chain_speculative_sampling(
            draft.float().softmax(-1), ids.int(), target.float().softmax(-1)
        )
        return tokens

    return run


def _vllm(chains: list[Chains]) -> Run:
    from vllm.v1.sample.rejection_sampler import rejection_sample

    # Some releases normalise the target's rows themselves.
    normalises = "target_logits" in inspect.signature(rejection_sample).parameters

    def run(k: int) -> Tensor:
        ids, draft, target, _ = chains[k]
        batch, drafted = ids.shape
        ends = torch.arange(1, batch + 1, device=ids.device, dtype=torch.int32) * drafted
        p = target.float() if normalises else target.float().softmax(-1)
        sampled = SimpleNamespace(
            all_greedy=False, all_random=True, generators={},
            temperature=torch.ones(batch, device=ids.device),
        )  # fmt: skip
        return rejection_sample(
            ids.int().flatten(), [drafted] * batch, drafted, ends,
            draft.float().softmax(-1).flatten(0, 1), p[:, :-1].flatten(0, 1),
            p[:, -1].argmax(-1, keepdim=True).int(), sampled,
        )  # fmt: skip

    return run


PEERS: dict[str, Callable[[list[Chains]], Run]] = {
    "transformers, a chain at a time": _transformers,
    "flashinfer, softmax before it": _flashinfer,
    "vllm, with its softmax": _vllm,
}


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
