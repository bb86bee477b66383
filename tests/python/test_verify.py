"""``ops.verify``: it equals its naive twin, it is lossless, and what it refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats

from tests.support import references
from tokentiming import ops

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def probs(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Random distributions, float64, whose entries are multiples of 2^-10: exact in every dtype
    here.

    Each row has a total of 1 on some of seven tokens from first to last, so that distributions
    overlap and supports differ.
    """
    counts = torch.zeros(*shape, dtype=torch.float64)
    for _ in range(8):
        where = torch.randint(7, (*shape[:-1], 1), generator=generator) * (shape[-1] - 1) // 6
        counts.scatter_add_(-1, where, torch.full_like(where, 128, dtype=torch.float64))
    return counts / 1024


def emitted(result: ops.Verification) -> list[list[int]]:
    """The emitted tokens of each chain, the padding checked and cut off."""
    rows = []
    for row, accepted in zip(result.tokens.tolist(), result.accepted.tolist(), strict=True):
        assert set(row[accepted + 1 :]) <= {-1}
        assert -1 not in row[: accepted + 1]
        rows.append(row[: accepted + 1])
    return rows


# One block of the core is 1024 entries.
@pytest.mark.parametrize("size", [1, 5, 40, 1024, 1025, 9000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("point_mass", [False, True])
def test_probabilities_equal_the_reference(size: int, dtype: torch.dtype, point_mass: bool) -> None:
    generator = torch.Generator().manual_seed(size)
    batch, length = (60, 3) if size < 100 else (16, 2)
    p = probs(batch, length + 1, size, generator=generator)
    q = probs(batch, length, size, generator=generator)
    ids = torch.multinomial(q.flatten(0, 1), 1, generator=generator).view(batch, length)
    uniforms = torch.rand(batch, length + 1, generator=generator)
    result = ops.verify(
        ids.int() if size % 2 else ids,
        target_probs=p.to(dtype),
        draft_probs=None if point_mass else q.to(dtype),
        uniforms=uniforms if size % 2 else uniforms.double(),
    )
    assert result.tokens.dtype == result.accepted.dtype == torch.int32
    rows = [
        references.verify(
            ids[b].tolist(),
            None if point_mass else q[b].tolist(),
            p[b].tolist(),
            uniforms[b].tolist(),
        )
        for b in range(batch)
    ]
    assert emitted(result) == rows
    assert size == 1 or len({len(row) for row in rows}) > 1


@pytest.mark.parametrize("size", [1, 7, 300, 2100])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
def test_logits_equal_the_reference(size: int, dtype: torch.dtype, temperature: float) -> None:
    generator = torch.Generator().manual_seed(size)
    batch, length = (40, 2) if size < 100 else (3, 2)
    target = torch.randn(batch, length + 1, size, generator=generator).mul(2).to(dtype)
    draft = torch.randn(batch, length, size, generator=generator).mul(2).to(dtype)
    target[:, :, 1:][torch.rand(batch, length + 1, size - 1, generator=generator) < 0.2] = -math.inf
    q = torch.softmax(draft.double() / temperature, -1)
    ids = torch.multinomial(q.flatten(0, 1), 1, generator=generator).view(batch, length)
    uniforms = torch.rand(batch, length + 1, generator=generator, dtype=torch.float64)
    result = ops.verify(
        ids, target_logits=target, draft_logits=draft, temperature=temperature, uniforms=uniforms
    )
    p = [
        [references.softmax(row, temperature) for row in rows] for rows in target.double().tolist()
    ]
    expected = [
        references.verify(ids[b].tolist(), q[b].tolist(), p[b], uniforms[b].tolist())
        for b in range(batch)
    ]
    assert emitted(result) == expected
    mixed = ops.verify(
        ids, target_logits=target, draft_probs=q, temperature=temperature, uniforms=uniforms
    )
    assert emitted(mixed) == expected


def test_ragged_equals_padded_chain_by_chain() -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = [0, 3, 1, 0, 5]
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    total = sum(lengths)
    p = probs(total + 5, 30, generator=generator)
    q = (probs(total, 30, generator=generator) + p[:total]) / 2
    ids = torch.multinomial(q, 1, generator=generator)[:, 0]
    uniforms = torch.rand(total + 5, generator=generator)
    whole = ops.verify(ids, target_probs=p, draft_probs=q, uniforms=uniforms, offsets=offsets)
    assert whole.tokens.shape == (5, 6)
    for b, (begin, end) in enumerate(itertools.pairwise(offsets.tolist())):
        rows = slice(begin + b, end + b + 1)
        one = ops.verify(
            ids[None, begin:end],
            target_probs=p[None, rows],
            draft_probs=q[None, begin:end],
            uniforms=uniforms[None, rows],
        )
        assert emitted(one)[0] == emitted(whole)[b]


@pytest.mark.parametrize("dtype", DTYPES)
def test_temperature_zero_is_greedy(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-5, 6, (50, 4, 5000), generator=generator).to(dtype)  # ties abound
    best = logits.argmax(-1)
    assert best.tolist() == [[row.index(max(row)) for row in chain] for chain in logits.tolist()]
    ids = best[:, :3].clone()
    wrong = torch.randint(0, 4, (50,), generator=generator)
    for b, k in enumerate(wrong.tolist()):
        if k < 3:
            ids[b, k] = (ids[b, k] + 1) % 5000
    result = ops.verify(ids, target_logits=logits, temperature=0.0)
    assert torch.equal(result.accepted, wrong.int())
    assert emitted(result) == [best[b, : k + 1].tolist() for b, k in enumerate(wrong.tolist())]


def first_token_distribution(
    p: torch.Tensor, q: torch.Tensor | None, proposal: torch.Tensor, given: torch.Tensor | None
) -> torch.Tensor:
    """The exact distribution of the first emitted token of a chain of one, float64 ``[V]``.

    Draws of the draft are branches weighted by ``proposal``; behind its entries, missing mass. The
    uniforms are integrated out between the rule's breakpoints, which bisection finds. ``given`` is
    what the rule is told ``q`` to be.
    """
    size = len(p)
    distribution = torch.zeros(size, dtype=torch.float64)
    tokens = torch.arange(size)
    nearly_one = torch.full((size,), 1 - 1e-16, dtype=torch.float64)

    def outcome(x: int, first: torch.Tensor, last: torch.Tensor) -> ops.Verification:
        return ops.verify(
            torch.full((size, 1), x),
            target_probs=p.expand(size, 2, -1),
            draft_probs=None if given is None else given.expand(size, 1, -1),
            uniforms=torch.stack([first, last], 1),
        )

    def accepted(x: int, u: torch.Tensor) -> torch.Tensor:
        return outcome(x, u, nearly_one).accepted == 1

    def drawn_up_to_itself(x: int, u: torch.Tensor) -> torch.Tensor:
        return outcome(x, nearly_one, u).tokens[:, 0] <= tokens

    def breakpoints(holds_below: Callable[[int, torch.Tensor], torch.Tensor], x: int):
        low, high = torch.zeros_like(nearly_one), torch.ones_like(nearly_one)
        for _ in range(60):
            middle = torch.minimum((low + high) / 2, nearly_one)
            holds = holds_below(x, middle)
            low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
        return torch.where(high < 1e-15, 0, high)

    for branch, weight in enumerate(proposal.tolist()):
        x = branch if branch < size else -1
        acceptance = float(breakpoints(accepted, x)[0])
        if acceptance > 0:
            distribution[x] += weight * acceptance
        if acceptance < 1 - 1e-15:
            ends = breakpoints(drawn_up_to_itself, x)
            distribution += weight * (1 - acceptance) * torch.diff(ends, prepend=ends.new_zeros(1))
    return distribution


P = torch.tensor([6, 1, 0, 3, 4, 2], dtype=torch.float64) / 16
Q = torch.tensor([2, 5, 3, 0, 4, 2], dtype=torch.float64) / 16
NOTHING = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("q", "proposal"),
    [
        (Q, Q),
        (P, P),
        (P.flip(0), P.flip(0)),
        (Q * 0.75, torch.cat([Q * 0.75, NOTHING + 0.25])),  # missing mass, drawn as -1
        (None, Q),  # point masses, for any draw
    ],
)
def test_the_distribution_of_the_first_token_is_the_targets(
    q: torch.Tensor | None, proposal: torch.Tensor
) -> None:
    assert torch.allclose(first_token_distribution(P, q, proposal, q), P, rtol=0, atol=1e-12)


def test_a_wrong_proposal_distribution_is_detected() -> None:
    wrong = Q.roll(1)
    assert (first_token_distribution(P, Q, Q, wrong) - P).abs().max() > 1e-2
    # Missing mass declared, but never drawn.
    assert (first_token_distribution(P, Q * 0.75, Q, Q * 0.75) - P).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chains_follow_the_target_statistically(dtype: torch.dtype) -> None:
    draws, size = 60_000, 5
    generator = torch.Generator().manual_seed(5)
    target = torch.randn(3, size, generator=generator).to(dtype)
    draft = torch.randn(2, size, generator=generator).to(dtype)
    q = torch.softmax(draft.double(), -1)
    ids = torch.stack(
        [torch.multinomial(row, draws, replacement=True, generator=generator) for row in q], 1
    )
    result = ops.verify(
        ids,
        target_logits=target.expand(draws, -1, -1).contiguous(),
        draft_logits=draft.expand(draws, -1, -1).contiguous(),
        uniforms=torch.rand(draws, 3, generator=generator),
    )
    p = torch.softmax(target.double(), -1)
    for position in range(3):
        reached = result.accepted >= position
        counts = torch.bincount(result.tokens[reached, position].long(), minlength=size)
        expected = p[position] * reached.sum()
        assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3
    counts = torch.bincount(ids[:, 0], minlength=size)
    assert stats.chisquare(counts, p[0] * draws).pvalue < 1e-6  # the draft alone does not


def test_an_empty_residual_falls_back_to_the_target() -> None:
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    q = torch.tensor([[0.25, 0.8]], dtype=torch.float64)
    for last, token in [(0.1, 0), (0.3, 1)]:
        uniforms = torch.tensor([[0.99, last]], dtype=torch.float64)
        result = ops.verify(
            torch.tensor([[1]]), target_probs=p[None], draft_probs=q[None], uniforms=uniforms
        )
        assert emitted(result) == [[token]]
    certain = torch.tensor([[[0.0, 1 - 2**-30], [1.0, 0.0]]], dtype=torch.float64)
    uniforms = torch.tensor([[1 - 2**-40, 0.5]], dtype=torch.float64)
    only = ops.verify(torch.tensor([[1]]), target_probs=certain, uniforms=uniforms)
    assert emitted(only) == [[1]]
    assert only.accepted.tolist() == [0]


def test_the_greatest_uniform_never_draws_a_token_without_mass() -> None:
    p = torch.zeros(1, 1, 9000)
    p[0, 0, [3, 4500]] = torch.tensor([0.3, 0.7])
    last = torch.tensor([[1 - 2**-53]], dtype=torch.float64)
    none = torch.empty(1, 0, dtype=torch.int64)
    assert ops.verify(none, target_probs=p, uniforms=last).tokens.tolist() == [[4500]]
    assert ops.verify(none, target_probs=p, uniforms=last * 0).tokens.tolist() == [[3]]


def test_unneeded_rows_are_not_read() -> None:
    p = torch.full((1, 4, 8), math.nan)
    p[0, :2] = 1 / 8
    q = p[:, :3].clone()
    ids = torch.tensor([[0, -1, 5]])
    assert ops.verify(
        ids, target_probs=p, draft_probs=q, uniforms=torch.full((1, 4), 0.5)
    ).accepted.tolist() == [1]


def test_threads_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(3, 5, 50_000, generator=generator)
    draft = target[:, :4] + torch.randn(3, 4, 50_000, generator=generator) / 4
    ids = torch.multinomial(draft.softmax(-1).flatten(0, 1), 1, generator=generator).view(3, 4)
    uniforms = torch.rand(3, 5, generator=generator)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results += [
                ops.verify(
                    ids[b], target_logits=target[b], draft_logits=draft[b], uniforms=uniforms[b]
                ).tokens.tolist()
                for b in (slice(0, 3), slice(0, 1))
            ]
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[2] == results[4]
    assert results[1] == results[3] == results[5] == results[0][:1]


def test_empty_batches_strides_numpy_and_out() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(2, 6, 20, generator=generator)
    ids, uniforms = torch.zeros(2, 2, dtype=torch.int64), torch.rand(2, 3, generator=generator)
    strided = wide[:, ::2, 5:15]
    expected = ops.verify(ids, target_logits=strided.contiguous(), uniforms=uniforms)
    out = ops.Verification(torch.zeros(2, 5, dtype=torch.int32), torch.zeros(2, dtype=torch.int32))
    assert ops.verify(ids, target_logits=strided, uniforms=uniforms, out=out) is out
    assert torch.equal(out.accepted, expected.accepted)
    assert torch.equal(out.tokens[:, :3], expected.tokens)
    assert (out.tokens[:, 3:] == -1).all()
    arrays = ops.verify(ids.numpy(), target_logits=strided.numpy(), uniforms=uniforms.numpy())
    assert torch.equal(arrays.tokens, expected.tokens)

    none = torch.empty(0, dtype=torch.int64)
    empty = ops.verify(
        none,
        target_probs=torch.empty(0, 4),
        uniforms=torch.empty(0),
        offsets=torch.zeros(1, dtype=torch.int64),
    )
    assert empty.tokens.shape == (0, 1)
    assert ops.verify(
        none.view(0, 3), target_probs=torch.empty(0, 4, 4), uniforms=torch.empty(0, 4)
    ).tokens.shape == (0, 4)


IDS = torch.tensor([[0, 1], [2, 0]])
TARGET = torch.full((2, 3, 4), 0.25)
DRAFT = torch.full((2, 2, 4), 0.25)
UNIFORMS = torch.full((2, 3), 0.5)


def with_entry(tensor: torch.Tensor, index: tuple[int, ...], value: float) -> torch.Tensor:
    changed = tensor.clone()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"draft_ids": with_entry(IDS, (1, 0), 4)}, ValueError, r"draft_ids\[2\] is 4, outside"),
        ({"draft_ids": with_entry(IDS, (0, 0), -2)}, ValueError, r"draft_ids\[0\] is -2"),
        (
            {"draft_ids": with_entry(IDS, (0, 0), -1), "draft_probs": None},
            ValueError,
            r"draft_ids\[0\] is -1.*missing mass",
        ),
        ({"draft_ids": IDS.float()}, TypeError, "draft_ids must be int32 or int64, got float32"),
        ({"draft_ids": IDS.T}, ValueError, "draft_ids must be contiguous"),
        ({"draft_ids": IDS[0]}, ValueError, "offsets belong to draft_ids"),
        ({"offsets": torch.tensor([0, 2])}, ValueError, "offsets belong to draft_ids"),
        ({"target_probs": None}, TypeError, "give one of target_logits and target_probs"),
        ({"target_logits": TARGET}, TypeError, "give one of target_logits and target_probs"),
        ({"draft_logits": DRAFT}, TypeError, "draft_logits and draft_probs are both given"),
        ({"target_probs": TARGET[0]}, ValueError, r"target_probs must have shape \[B, K \+ 1, V\]"),
        ({"target_probs": TARGET[:, :2]}, ValueError, "target_probs must have shape .* 3 rows"),
        ({"target_probs": TARGET[:1]}, ValueError, "target_probs must have shape .* B = 2"),
        ({"target_probs": TARGET[:, :, :3]}, ValueError, "draft_probs has 4 columns, target_p"),
        (
            {"target_probs": TARGET.mT.contiguous().mT},
            ValueError,
            "target_probs must be contiguous",
        ),
        (
            {"target_probs": torch.full((2, 5, 4), 0.25)[:, :3]},
            ValueError,
            "target_probs must have its rows at one distance",
        ),
        ({"target_probs": TARGET.long()}, TypeError, "target_probs must be float16, bfloat16"),
        ({"target_probs": TARGET.clone().requires_grad_()}, ValueError, "target_probs requires gr"),
        (
            {"target_probs": with_entry(TARGET, (0, 0, 0), math.nan)},
            ValueError,
            r"target_probs\[0\] holds NaN",
        ),
        (
            {"target_probs": with_entry(TARGET, (1, 2, 3), -0.1)},
            ValueError,
            r"target_probs\[5\] holds NaN, infinity or a negative",
        ),
        (
            {"target_probs": with_entry(TARGET, (1, 2), 0.0)},
            ValueError,
            r"target_probs\[5\] has no mass",
        ),
        (
            {"draft_probs": with_entry(DRAFT, (0, 0, 0), math.inf)},
            ValueError,
            r"draft_probs\[0\] holds NaN, infinity",
        ),
        (
            {"target_probs": None, "target_logits": with_entry(TARGET, (0, 1, 3), math.inf)},
            ValueError,
            r"target_logits\[1\] holds NaN or \+inf",
        ),
        (
            {"target_probs": None, "target_logits": with_entry(TARGET, (0, 1), -math.inf)},
            ValueError,
            r"target_logits\[1\] has no finite logit",
        ),
        (
            {
                "target_probs": None,
                "target_logits": with_entry(TARGET, (0, 0, 3), math.nan),
                "temperature": 0.0,
            },
            ValueError,
            r"target_logits\[0\] holds NaN or \+inf",
        ),
        ({"temperature": 0.5}, ValueError, "temperature applies to target_logits"),
        (
            {"target_probs": None, "target_logits": TARGET, "temperature": -1.0},
            ValueError,
            "temperature is -1",
        ),
        ({"uniforms": None}, ValueError, "uniforms are missing"),
        ({"uniforms": UNIFORMS + 0.5}, ValueError, r"uniforms\[0\] is 1.0+, not in \[0, 1\)"),
        ({"uniforms": UNIFORMS[:, :2].contiguous()}, ValueError, "uniforms must have shape"),
        ({"uniforms": UNIFORMS.half()}, TypeError, "uniforms must be float32 or float64"),
        (
            {"out": ops.Verification(IDS.int(), IDS[0].int())},
            ValueError,
            r"out.tokens must be \[2, 3\], got \[2, 2\]",
        ),
        (
            {"out": ops.Verification(torch.zeros(2, 3, dtype=torch.int32), IDS[0])},
            TypeError,
            "out.accepted must be int32, got int64",
        ),
    ],
)
def test_refusals(changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {
        "draft_ids": IDS,
        "target_probs": TARGET,
        "draft_probs": DRAFT,
        "uniforms": UNIFORMS,
    } | changes
    with pytest.raises(error, match=f"^verify: {message}"):
        ops.verify(**arguments)


def test_ragged_refusals() -> None:
    ids, uniforms = torch.tensor([0, 1]), torch.full((4,), 0.5)
    good = {"target_probs": TARGET.view(-1, 4)[:4], "uniforms": uniforms}
    starts = torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=r"^verify: offsets must rise from 0"):
        ops.verify(ids, **good, offsets=torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match=r"^verify: target_probs has 3 rows; .* need 4"):
        ops.verify(ids, **good | {"target_probs": TARGET.view(-1, 4)[:3]}, offsets=starts)
    with pytest.raises(ValueError, match=r"^verify: uniforms has 3 entries"):
        ops.verify(ids, **good | {"uniforms": uniforms[:3]}, offsets=starts)


def test_nothing_is_written_on_error_and_overlap_is_refused() -> None:
    tokens = torch.full((2, 3), -7, dtype=torch.int32)
    out = ops.Verification(tokens, torch.full((2,), -7, dtype=torch.int32))
    bad = with_entry(TARGET, (1, 2, 3), math.nan)
    with pytest.raises(ValueError, match=r"^verify: target_probs\[5\]"):
        ops.verify(IDS, target_probs=bad, draft_probs=DRAFT, uniforms=UNIFORMS, out=out)
    assert (tokens == -7).all()
    assert (out.accepted == -7).all()
    ids = torch.zeros(2, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"^verify: out\.tokens shares memory with draft_ids"):
        ops.verify(
            ids,
            target_probs=torch.full((2, 4, 4), 0.25),
            uniforms=torch.full((2, 4), 0.5),
            out=ops.Verification(ids, out.accepted),
        )
