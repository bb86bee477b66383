"""Operations over rows of a vocabulary's size, and the cost of a call over next to nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import peers
from case import Case, cold, require
from tokentiming import ops

HEAD = 151_936  # Qwen2.5's vocabulary


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- sample ----


def sample_case(dtype: torch.dtype = torch.float32, rows: int = 9, columns: int = HEAD) -> Case:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-(2**63), 2**63 - 1, (columns,), generator=generator)
    states = torch.stack([torch.zeros(rows), torch.arange(rows), torch.zeros(rows)], 1).long()
    out = torch.empty(rows, dtype=torch.int64)
    least = dtype.itemsize * rows * columns + 8 * columns

    def inputs(seed: int) -> Tensor:
        return (3 * torch.randn(rows, columns, generator=generator.manual_seed(seed))).to(dtype)

    sets = cold(inputs, least)
    turn, plain_turn = itertools.cycle(sets), itertools.cycle(sets)

    def plain() -> Tensor:
        logits = next(plain_turn).float()
        return peers.torch_sample(logits, peers.torch_exponentials(logits))

    def check() -> None:
        for seed, logits in enumerate(sets):
            exponentials = ops.log_noise(keys, seed=seed, states=states).exp().float()
            expected = ops.sample(logits, keys, seed=seed, states=states)
            require(
                torch.equal(peers.torch_sample(logits.float(), exponentials), expected),
                "torch: ids",
            )

    ways = {
        "ours, out=": lambda: ops.sample(next(turn), keys, seed=0, states=states, out=out),
        "torch: softmax, exponential_, argmax": plain,
    }
    return Case("sample", f"{rows} x {columns:,}, {name_of(dtype)}", ways, check, least)


# ---- verify ----


def verify_case(
    rejected_at: int | None,
    dtype: torch.dtype = torch.float32,
    drafted: int = 8,
    columns: int = HEAD,
) -> Case:
    """One chain, logits in; every token is accepted, or all before one that the target excludes.

    The peers compute in float: in less precision they would give other results.
    """

    def inputs(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        target = 3 * torch.randn(1, drafted + 1, columns, generator=generator)
        draft = target[:, :drafted].clone()
        ids = torch.multinomial(draft[0].softmax(-1), 1, generator=generator).T
        if rejected_at is not None:
            # What the draft likes most and the target next to never gives.
            ids[0, rejected_at] = target[0, rejected_at].argmax()
            target[0, rejected_at, ids[0, rejected_at]] -= 60
        uniforms = torch.rand(1, drafted + 1, generator=generator)
        return ids, draft.to(dtype), target.to(dtype), uniforms

    read = drafted if rejected_at is None else rejected_at + 1
    least = dtype.itemsize * columns * (2 * read + (rejected_at is None))
    sets = cold(inputs, dtype.itemsize * columns * (2 * drafted + 1))
    turns: list[Iterator[Any]] = [itertools.cycle(sets) for _ in range(3)]
    out = ops.Verification(
        torch.empty((1, drafted + 1), dtype=torch.int32), torch.empty(1, dtype=torch.int32)
    )

    def run(ids: Tensor, draft: Tensor, target: Tensor, uniforms: Tensor) -> ops.Verification:
        return ops.verify(ids, draft_logits=draft, target_logits=target, uniforms=uniforms, out=out)

    def check() -> None:
        for ids, draft, target, uniforms in sets:
            result = run(ids, draft, target, uniforms)
            count = int(result.accepted)
            require(count == (drafted if rejected_at is None else rejected_at), "tokens accepted")
            expected = result.tokens[:, : count + 1].long()
            tokens, n = peers.torch_verify(ids, draft.float(), target.float(), uniforms)
            require(n == count and torch.equal(tokens, expected), "torch: tokens")
            with transformers_draws(uniforms):
                tokens, n = peers.transformers_verify(ids, draft.float(), target.float())
            require(n == count and torch.equal(tokens, expected), "transformers: tokens")

    def plain() -> object:
        ids, draft, target, uniforms = next(turns[1])
        return peers.torch_verify(ids, draft.float(), target.float(), uniforms)

    def transformers() -> object:
        ids, draft, target, _ = next(turns[2])
        return peers.transformers_verify(ids, draft.float(), target.float())

    ways = {
        "ours, out=": lambda: run(*next(turns[0])),
        "plain torch": plain,
        "transformers": transformers,
    }
    outcome = "all accepted" if rejected_at is None else f"rejected at {rejected_at}"
    size = f"K = {drafted}, {columns:,}, {name_of(dtype)}, {outcome}"
    return Case("verify", size, ways, check, least)


def transformers_draws(uniforms: Tensor) -> Any:
    """Within, transformers draws with these uniforms, by the inverse transform that we draw by."""

    def multinomial(weights: Tensor, num_samples: int) -> Tensor:
        return peers.inverse_transform(weights[0], uniforms[0, -1])[None, None]

    return mock.patch.multiple(
        torch, rand_like=lambda ratios: uniforms[:, :-1].view_as(ratios), multinomial=multinomial
    )


# ---- the cost of a call ----


def call_case() -> Case:
    logits, keys = torch.zeros(1, 4), torch.arange(4)
    states, out = torch.zeros(1, 3, dtype=torch.int64), torch.empty(1, dtype=torch.int64)
    a, b, c, sums = (torch.zeros(4) for _ in range(4))

    def registered() -> Tensor:
        return torch.ops.tokentiming.sample(logits, keys, 0, states)

    def check() -> None:
        expected = ops.sample(logits, keys, seed=0, states=states)
        require(torch.equal(registered(), expected), "the registered operator: ids")
        require(ops.sample(logits, keys, seed=0, states=states, out=out) is out, "out")

    ways = {
        "ours: sample, out=": lambda: ops.sample(logits, keys, seed=0, states=states, out=out),
        "ours: sample as a registered operator": registered,
        "torch.addcmul, out=": lambda: torch.addcmul(a, b, c, out=sums),
    }
    return Case("call", "four tensors", ways, check, yardsticks=frozenset({"torch.addcmul, out="}))
