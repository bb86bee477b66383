"""Optional peers of ``verify``: other projects' functions over batches of chains."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import peers
from case import Run

Chains = tuple[Tensor, Tensor, Tensor, Tensor]
"""Draft ids, draft logits, target logits and uniforms."""


def accepted_by(result: Any) -> Tensor:
    """How many tokens a peer accepted in each chain: int64 ``[B]``."""
    if isinstance(result, list):
        return torch.stack([torch.as_tensor(count) for _, count in result]).flatten()
    return (result != -1).sum(1) - 1


def transformers(chains: list[Chains]) -> Run:
    """Takes one chain at a time."""

    def run(k: int) -> list[tuple[Tensor, Tensor]]:
        ids, draft, target, _ = chains[k]
        return [
            peers.transformers_verify(one[None], q[None].float(), p[None].float())
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


GPU_PEERS: dict[str, Callable[[list[Chains]], Run]] = {
    "transformers, a chain at a time": transformers,
    "flashinfer, softmax before it": _flashinfer,
    "vllm, with its softmax": _vllm,
}
