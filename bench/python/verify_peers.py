"""Optional peers of ``verify``: other projects' functions over batches of chains."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

import peers
from case import Run

Chains = tuple[Tensor, Tensor, Tensor, Tensor]
"""Draft ids, draft logits, target logits and uniforms."""


class Peer(NamedTuple):
    run: Run
    captured: bool
    """Whether a CUDA graph can record it: it neither waits for the GPU nor keeps a generator."""


def accepted_by(result: Any) -> Tensor:
    """How many tokens a peer accepted in each chain: int64 ``[B]``."""
    if isinstance(result, list):
        return torch.stack([torch.as_tensor(count) for _, count in result]).flatten()
    if isinstance(result, tuple):  # tokens, and how many of each chain are emitted
        return result[1].long() - 1
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


def _transformers(chains: list[Chains]) -> Peer:
    return Peer(transformers(chains), captured=False)


def _flashinfer(chains: list[Chains]) -> Peer:
    from flashinfer.sampling import chain_speculative_sampling

    # Without a seed it takes one from torch's generator, on the host.
    takes_seed = "seed" in inspect.signature(chain_speculative_sampling).parameters
    seeds: dict[str, Tensor] = {}
    if takes_seed:
        zero = torch.zeros(1, dtype=torch.int64, device=chains[0][0].device)
        seeds = {"seed": zero, "offset": zero.clone()}

    def run(k: int) -> Tensor:
        ids, draft, target, _ = chains[k]
        tokens, *_ = chain_speculative_sampling(
            draft.float().softmax(-1), ids.int(), target.float().softmax(-1), **seeds
        )
        return tokens

    return Peer(run, takes_seed)


def _vllm(chains: list[Chains]) -> Peer:
    """The sampler of vLLM's current model runner, which takes logits of any precision."""
    utils = "vllm.triton_utils"
    if utils not in sys.modules and importlib.util.find_spec(utils) is None:
        sys.modules[utils] = _triton_utils()
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

    ids, _, target, _ = chains[0]
    (batch, drafted), columns = ids.shape, target.shape[2]
    options: Any = {"device": ids.device, "dtype": torch.int32}
    each = drafted + 1
    chain = torch.arange(batch, **options)
    ends = torch.arange(batch + 1, **options) * each
    chain_of_row = chain.repeat_interleave(each)
    position = torch.arange(each, **options).repeat(batch)
    temperature = torch.ones(batch, device=ids.device)
    seeds = torch.arange(batch, device=ids.device)
    # A row's drafted token is in the next place; the first place has the token before the chain.
    drafted_ids = [torch.nn.functional.pad(ids.int(), (1, 0)).flatten() for ids, *_ in chains]

    def run(k: int) -> tuple[Tensor, Tensor]:
        _, draft, target, _ = chains[k]
        return rejection_sample(
            target.view(-1, columns), draft, drafted_ids[k], ends, position.long(), chain,
            chain_of_row, position, temperature, seeds, drafted,
        )  # fmt: skip

    return Peer(run, captured=True)


def _triton_utils() -> ModuleType:
    """What vLLM's kernels import, where only their own files are carried."""
    import triton
    import triton.language as tl
    from triton.language.extra import libdevice

    utils = ModuleType("vllm.triton_utils")
    utils.__dict__.update(triton=triton, tl=tl, tldevice=libdevice, HAS_TRITON=True)
    return utils


GPU_PEERS: dict[str, Callable[[list[Chains]], Peer]] = {
    "transformers, a chain at a time": _transformers,
    "flashinfer, softmax before it": _flashinfer,
    "vllm": _vllm,
}
