"""Operations on trees of proposed tokens."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import torch

import peers
from case import Case, Run, require
from tokentiming import ops

NO_CHILD = 1_000_000  # a token that no node has


def walk_case(device: str = "cpu", batch: int = 1, nodes: int = 64) -> Case:
    """Trees of one shape, since some peers need that. Of ten picks nine have a child, if any."""
    rng = random.Random(0)
    parents = [rng.randrange(max(-1, i - 6), i) for i in range(nodes)]
    siblings: Counter[int] = Counter()
    tokens = []  # of siblings different ones: the peers would not take the first of two
    for parent in parents:
        tokens.append(siblings[parent])
        siblings[parent] += 1

    def pick(row: int) -> int:
        children = siblings[row - 1]
        return rng.randrange(children) if children and rng.random() < 0.9 else NO_CHILD

    picked = torch.tensor([pick(row) for _ in range(batch) for row in range(nodes + 1)])
    forest: dict[str, Any] = {
        "picked": picked,
        "tokens": torch.tensor(tokens).repeat(batch),
        "parents": torch.tensor(parents, dtype=torch.int32).repeat(batch),
        "offsets": torch.arange(batch + 1) * nodes,
    }
    arguments = {name: tensor.to(device) for name, tensor in forest.items()}
    out = ops.walk(**arguments)
    every_path = peers.EveryPath(parents, device)
    rows = arguments["picked"].view(batch, nodes + 1), arguments["tokens"].view(batch, nodes)

    def ours(_: int) -> ops.Walk:
        return ops.walk(**arguments, out=out)

    def check() -> None:
        expected = peers.python_walk(**forest)
        emitted = [row for path in expected for row in path]
        found = ours(0)
        counts = torch.tensor([len(path) - 1 for path in expected])
        require(torch.equal(found.accepted.cpu(), counts.int()), "Python: tokens accepted")
        kept = found.tokens[found.tokens >= 0]
        require(kept.tolist() == emitted, "Python: tokens")
        paths, accepted = every_path(*rows)
        require(torch.equal(accepted.cpu(), counts), "torch: tokens accepted")
        for path, tokens_of_path in zip(paths.tolist(), expected, strict=True):
            require(path[: len(tokens_of_path)] == tokens_of_path, "torch: tokens")

    python = "Python: dictionaries of children"
    ways: dict[str, Run] = {
        "ours, out=": ours,
        "ours": lambda _: ops.walk(**arguments),
        python: lambda _: peers.python_walk(**arguments),
        "torch: every path, as in Medusa": lambda _: every_path(*rows),
    }
    size = f"B = {batch}, {nodes} nodes each, {int(out.accepted.sum())} accepted"
    return Case("walk", size, ways, check, synchronizing={python})
