"""``verify`` with a map between vocabularies, beside ``transfer`` and ``verify``."""

from __future__ import annotations

from typing import Any

import torch

from case import Case, Run, cold_sets, require
from pairs import DRAFT
from row_cases import HEAD
from tokentiming import ops


def mapped_verify_case(
    device: str = "cpu", batch: int = 1, drafted: int = 8, *, rate: float = 1.0, sets: int = 0
) -> Case:
    """Chains of draft tokens of one target token each; the rows of the target are logits.

    Tokens are accepted with probability ``rate``.
    """
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(HEAD, (DRAFT,), generator=generator).int()
    mapped = ops.VocabularyMap(first, first, torch.arange(DRAFT + 1), first).to(device)
    one_byte = ops.ByteTable(torch.zeros(HEAD, dtype=torch.uint8), torch.arange(HEAD + 1))
    table = one_byte.to(device)
    tokens = batch * drafted
    sets = sets or cold_sets(4 * (tokens * DRAFT + (tokens + batch) * HEAD))
    offsets = torch.arange(batch + 1, device=device) * drafted
    spans = torch.stack((torch.arange(drafted), torch.arange(drafted) + 1), 1)
    spans = spans.int().repeat(batch, 1).to(device)

    def inputs() -> dict[str, Any]:
        probs = (3 * torch.randn(tokens, DRAFT, generator=generator)).softmax(-1)
        drawn = torch.multinomial(probs, 1, generator=generator)[:, 0]
        ids = first[drawn].long()
        logits = 3 * torch.randn(tokens + batch, HEAD, generator=generator)
        accepted = torch.rand(tokens, generator=generator) < rate
        rows = torch.arange(tokens) + torch.arange(tokens) // drafted
        logits[rows, ids] = torch.where(accepted, 40.0, -40.0)
        uniforms = torch.rand(tokens + batch, generator=generator).clamp_(0.05, 0.95)
        tensors = {"drawn": drawn, "ids": ids, "probs": probs, "logits": logits, "u": uniforms}
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    inputs_of = [inputs() for _ in range(sets)]
    transferred = ops.Transfer(
        torch.empty(tokens, HEAD, device=device),
        torch.empty(tokens, dtype=torch.int8, device=device),
    )
    outs = [
        ops.Verification(
            torch.empty(batch, tokens + 1, dtype=torch.int32, device=device),
            torch.empty(batch, dtype=torch.int32, device=device),
        )
        for _ in range(2)
    ]

    def verify(one: dict[str, Any], out: ops.Verification, **draft: Any) -> ops.Verification:
        return ops.verify(
            one["ids"],
            target_logits=one["logits"],
            uniforms=one["u"],
            offsets=offsets,
            out=out,
            **draft,
        )

    def ours(k: int) -> ops.Verification:
        return verify(inputs_of[k], outs[0], draft_probs=inputs_of[k]["probs"], draft_map=mapped)

    def dense(k: int) -> ops.Verification:
        one = inputs_of[k]
        ops.transfer(
            one["probs"],
            draft_ids=one["drawn"],
            target_ids=one["ids"],
            target_spans=spans,
            draft_table=table,
            target_table=table,
            vocabulary_map=mapped,
            draft_offsets=offsets,
            target_offsets=offsets,
            out=transferred,
        )
        return verify(one, outs[1], draft_probs=transferred.probs)

    def check() -> None:
        for k in range(sets):
            found, expected = ours(k), dense(k)
            require(torch.equal(found.accepted, expected.accepted), "tokens accepted")
            require(torch.equal(found.tokens, expected.tokens), "tokens")

    # The rows of the target's logits, and at a rejection one row of the draft.
    least = 4.0 * (tokens + batch) * HEAD if rate == 1.0 else 0.0
    size = f"B = {batch}, K = {drafted}, {DRAFT:,} into {HEAD:,}, draft_map=, {rate:.0%} accepted"
    ways: dict[str, Run] = {"ours, out=": ours, "ours: transfer, then verify": dense}
    return Case("verify", size, ways, check, sets, least)
