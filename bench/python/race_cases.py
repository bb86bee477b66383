"""The exponential race on shared noise: a draw, and the tokens that lead it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import peers
from case import Case, cold_sets, require
from row_cases import HEAD, name_of
from tokentiming import ops

INSTRUCTIONS_A_LOGIT = 48  # of sample, counted in csrc/cuda/sample.cu


class RaceInputs:
    """What `sample` and `candidates` take: keys, states and sets of logits."""

    def __init__(self, device: str, dtype: torch.dtype, rows: int, columns: int, sets: int) -> None:
        self.least_bytes = dtype.itemsize * rows * columns + 8 * columns
        self.sets = sets or cold_sets(self.least_bytes)
        generator = torch.Generator(device).manual_seed(0)
        options: Any = {"generator": generator, "device": device}
        self.keys = torch.randint(-(2**63), 2**63 - 1, (columns,), **options)
        self.states = torch.zeros(rows, 3, dtype=torch.int64, device=device)
        self.states[:, 0] = torch.arange(rows)
        self.states[:, 1] = torch.arange(rows) % 7

        def drawn(seed: int) -> Tensor:
            generator.manual_seed(seed)
            # In the dtype of the rows on a GPU, whose memory holds few sets of floats.
            wide = torch.float32 if device == "cpu" else dtype
            return (3 * torch.randn(rows, columns, dtype=wide, **options)).to(dtype)

        self.logits = [drawn(seed) for seed in range(self.sets)]

    def exponentials(self, seed: int) -> Tensor:
        """The noise of the operations."""
        return ops.log_noise(self.keys, seed=seed, states=self.states).exp().float()


def sample_case(
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    rows: int = 9,
    columns: int = HEAD,
    sets: int = 0,
) -> Case:
    race = RaceInputs(device, dtype, rows, columns, sets)
    logits, keys, states = race.logits, race.keys, race.states
    outs = [torch.empty(rows, dtype=torch.int64, device=device) for _ in logits]

    def ours(k: int) -> Tensor:
        return ops.sample(logits[k], keys, seed=0, states=states, out=outs[k])

    def plain(k: int) -> Tensor:
        row = logits[k].float()
        return peers.torch_sample(row, peers.torch_exponentials(row))

    def check() -> None:
        if device != "cpu":
            some = slice(0, 8)
            on_cpu = ops.sample(
                logits[0][some].cpu(), keys.cpu(), seed=0, states=states[some].cpu()
            )
            require(torch.equal(ours(0)[some].cpu(), on_cpu), "the CPU: ids")
            return
        for seed, row in enumerate(logits):
            expected = ops.sample(row, keys, seed=seed, states=states)
            drawn = peers.torch_sample(row.float(), race.exponentials(seed))
            require(torch.equal(drawn, expected), "torch: ids")

    name = "torch: softmax, exponential_, argmax"
    return Case(
        "sample", f"{rows} x {columns:,}, {name_of(dtype)}",
        {"ours, out=": ours, name: plain}, check, race.sets, race.least_bytes,
        instructions=INSTRUCTIONS_A_LOGIT * rows * columns, synchronizing={name},
    )  # fmt: skip


# ---- candidates ----


def candidates_case(
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    rows: int = 9,
    columns: int = HEAD,
    count: int = 4,
    sets: int = 0,
) -> Case:
    race = RaceInputs(device, dtype, rows, columns, sets)
    logits, keys, states = race.logits, race.keys, race.states
    outs = [ops.candidates(row, keys, seed=0, states=states, count=count) for row in logits]
    drawn = [torch.empty(rows, dtype=torch.int64, device=device) for _ in logits]

    def ours(k: int) -> ops.Candidates:
        return ops.candidates(logits[k], keys, seed=0, states=states, count=count, out=outs[k])

    def sample(k: int) -> Tensor:
        return ops.sample(logits[k], keys, seed=0, states=states, out=drawn[k])

    def plain(k: int) -> tuple[Tensor, Tensor]:
        row = logits[k].float()
        return peers.torch_candidates(row, peers.torch_exponentials(row), count)

    def require_same(found: Sequence[Tensor], expected: ops.Candidates, name: str) -> None:
        require(torch.equal(found[0], expected.ids), f"{name}: ids")
        require(torch.allclose(found[1], expected.shares, rtol=1e-4, atol=0), f"{name}: shares")

    def check() -> None:
        if device != "cpu":
            some = slice(0, 8)
            on_cpu = ops.candidates(
                logits[0][some].cpu(), keys.cpu(), seed=0, states=states[some].cpu(), count=count
            )
            require_same([part[some].cpu() for part in ours(0)], on_cpu, "the CPU")
            return
        for seed, row in enumerate(logits):
            expected = ops.candidates(row, keys, seed=seed, states=states, count=count)
            found = peers.torch_candidates(row.float(), race.exponentials(seed), count)
            require_same(found, expected, "torch")
            first = ops.sample(row, keys, seed=seed, states=states)
            require(torch.equal(expected.ids[:, 0], first), "sample: ids")

    name = "torch: softmax, exponential_, topk"
    return Case(
        "candidates", f"{rows} x {columns:,}, {name_of(dtype)}, {count} a row",
        {"ours, out=": ours, "ours: sample": sample, name: plain}, check, race.sets,
        race.least_bytes, yardsticks=frozenset({"ours: sample"}), synchronizing={name},
    )  # fmt: skip
