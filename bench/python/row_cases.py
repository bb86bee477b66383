"""Operations over rows of a vocabulary's size, and the cost of a call with small inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import peers
from case import Case, Run, cold_sets, require
from timing import captures
from tokentiming import ops
from verify_peers import GPU_PEERS, Chains, Peer, accepted_by, transformers

HEAD = 151_936  # Qwen2.5's vocabulary


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- verify ----


def chains_of(device: str, dtype: torch.dtype, accepted: Tensor, columns: int, seed: int) -> Chains:
    """Chains whose acceptances ``[B, K]`` are as given, whatever the uniforms."""
    batch, drafted = accepted.shape
    generator = torch.Generator(device).manual_seed(seed)
    options: Any = {"generator": generator, "device": device}
    target = 3 * torch.randn((batch, drafted + 1, columns), dtype=dtype, **options)
    draft = target[:, :drafted].clone()
    draft += 0.3 * torch.randn(draft.shape, dtype=dtype, **options)
    ids = torch.randint(columns, (batch, drafted), **options)
    # Uniforms in [0.05, 0.95] are far from the ratio on either side.
    low = torch.where(accepted, -40.0, 20.0).to(dtype)
    high = torch.where(accepted, 10.0, -40.0).to(dtype)
    draft.scatter_(2, ids[..., None], low[..., None])
    target[:, :drafted].scatter_(2, ids[..., None], high[..., None])
    return ids, draft, target, torch.rand(batch, drafted + 1, **options).clamp_(0.05, 0.95)


def verify_case(
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
    drafted: int = 8,
    columns: int = HEAD,
    *,
    rejected_at: int | None = None,
    rate: float = 1.0,
    sets: int = 0,
    optional: dict[str, Callable[[list[Chains]], Peer]] | None = None,
) -> Case:
    """Logits in. Tokens are accepted with probability ``rate``, or all but ``rejected_at``.

    The peers compute in float: in less precision they would give other results. The ``optional``
    ones are by default those that run on a GPU, if the device is one.
    """
    if optional is None:
        optional = GPU_PEERS if device == "cuda" else {}
    sets = sets or cold_sets(batch * dtype.itemsize * columns * (2 * drafted + 1))
    generator = torch.Generator(device).manual_seed(0)
    accepted = torch.rand(sets, batch, drafted, generator=generator, device=device) < rate
    if rejected_at is not None:
        accepted[:, :, rejected_at] = False
    counts = accepted.int().cumprod(2).sum(2)  # [sets, batch]
    tensors = [chains_of(device, dtype, accepted[k], columns, k) for k in range(sets)]
    outs = [
        ops.Verification(
            torch.empty((batch, drafted + 1), dtype=torch.int32, device=device),
            torch.empty(batch, dtype=torch.int32, device=device),
        )
        for _ in range(sets)
    ]

    def ours(k: int) -> ops.Verification:
        ids, draft, target, uniforms = tensors[k]
        return ops.verify(
            ids, draft_logits=draft, target_logits=target, uniforms=uniforms, out=outs[k]
        )

    def plain(k: int) -> tuple[Tensor, Tensor]:
        ids, draft, target, uniforms = tensors[k]
        if device == "cpu":  # one chain, which reads fewer rows than a batch
            return peers.torch_verify(ids, draft.float(), target.float(), uniforms)
        return peers.torch_verify_batch(ids, draft, target, uniforms)

    def check_plain() -> None:
        agreed = []
        for k in range(sets):
            result = ours(k)
            require(torch.equal(result.accepted.long(), counts[k]), "tokens accepted")
            tokens, count = plain(k)
            require(torch.equal(count.flatten(), counts[k]), "torch: tokens accepted")
            padded = torch.full_like(result.tokens, -1)
            padded[:, : tokens.shape[1]] = tokens
            agreed.append((result.tokens == padded).all(1))
        # On a GPU sums run in another order, and a threshold may fall on an edge's other side.
        share = float(torch.cat(agreed).float().mean())
        require(share >= (1.0 if device == "cpu" else 0.9), f"torch: tokens, in {share:.2f}")

    def check_transformers() -> None:
        for k in range(sets):
            expected = ours(k).tokens[:, : int(counts[k]) + 1].long()
            with transformers_draws(tensors[k][3]):
                [(tokens, count)] = ways["transformers"](k)  # type: ignore[misc]
            require(count == int(counts[k]), "transformers: tokens accepted")
            require(torch.equal(tokens, expected), "transformers: tokens")

    def admit(name: str, make: Callable[[list[Chains]], Peer]) -> None:
        try:
            peer = make(tensors)
            for k in range(sets):
                require(torch.equal(accepted_by(peer.run(k)), counts[k]), "tokens accepted")
        except Exception as error:  # not installed, or a release with another signature
            missing.append(f"{name}: {type(error).__name__}: {error}"[:200])
            return
        ways[name] = peer.run
        if not (peer.captured and captures(peer.run)):
            synchronizing.add(name)

    def check() -> None:
        check_plain()
        if device == "cpu":
            check_transformers()
        for name, make in optional.items():
            admit(name, make)

    ways: dict[str, Run] = {"ours, out=": ours, "plain torch": plain}
    if device == "cpu":
        ways["transformers"] = transformers(tensors)
    missing: list[str] = []
    synchronizing: set[str] = set()
    # A chain reads both rows at each position, and the target's alone at its end.
    ended = counts == drafted
    rows = float((2 * (counts + 1 - ended.int()) + ended.int()).sum()) / sets
    outcome = f"rejected at {rejected_at}" if rejected_at is not None else f"{rows:.0f} rows read"
    return Case(
        "verify", f"B = {batch}, K = {drafted}, {columns:,}, {name_of(dtype)}, {outcome}",
        ways, check, sets, rows * columns * dtype.itemsize,
        synchronizing=synchronizing, missing=missing,
    )  # fmt: skip


def transformers_draws(uniforms: Tensor) -> Any:
    """A context in which transformers draws with these uniforms, by the same inverse CDF."""

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

    def ours(_: int) -> Tensor:
        return ops.sample(logits, keys, seed=0, states=states, out=out)

    def registered(_: int) -> Tensor:
        return torch.ops.tokentiming.sample(logits, keys, 0, states)

    def check() -> None:
        expected = ops.sample(logits, keys, seed=0, states=states)
        require(torch.equal(registered(0), expected), "the registered operator: ids")
        require(ours(0) is out, "out")

    ways: dict[str, Run] = {
        "ours: sample, out=": ours,
        "ours: sample as a registered operator": registered,
        "torch.addcmul, out=": lambda _: torch.addcmul(a, b, c, out=sums),
    }
    return Case("call", "four tensors", ways, check, yardsticks=frozenset({"torch.addcmul, out="}))
