"""``ops.verify`` with a map between vocabularies, a pool of rows, and a temperature per chain."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from tests.support import references
from tokentiming import ops

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


class Pair:
    """Expansions of D draft tokens in V target tokens, some of them empty, and their tables."""

    def __init__(self, seed: int, draft: int = 40, target: int = 12) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.generator = generator
        lengths = torch.randint(4, (draft,), generator=generator).tolist()
        lengths[0] = 3
        self.columns = target
        self.expansions = [
            torch.randint(min(target, 4), (n,), generator=generator).tolist() for n in lengths
        ]
        for d in range(draft // 2, draft):  # the other half spell single tokens
            self.expansions[d] = torch.randint(target, (1,), generator=generator).tolist()
        first = torch.tensor([(e or [-1])[0] for e in self.expansions], dtype=torch.int32)
        ends = torch.tensor([0, *map(len, self.expansions)]).cumsum(0)
        flat = [t for e in self.expansions for t in e]
        ids = torch.tensor(flat, dtype=torch.int32)
        self.map = ops.VocabularyMap(torch.full_like(first, -1), first, ends, ids)
        # Target token t has the bytes of one letter, a draft token those of its expansion.
        letters = torch.arange(target, dtype=torch.uint8)
        self.target_table = ops.ByteTable(letters, torch.arange(target + 1))
        self.draft_table = ops.ByteTable(ids.to(torch.uint8), ends)

    def probs(self, count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Distributions of multiples of 2^-10, which are exact in every dtype here."""
        size = len(self.expansions)
        counts = torch.zeros(count, size, dtype=torch.float64)
        for _ in range(8):
            where = torch.randint(size, (count, 1), generator=self.generator)
            counts.scatter_add_(1, where, torch.full_like(where, 128, dtype=torch.float64))
        return (counts / 1024).to(dtype)

    def chain(self, pool: torch.Tensor) -> tuple[list[int], list[int], list[int]]:
        """A chain as `pushforward` proposes it: draft tokens drawn from rows until one has no
        expansion, the target tokens, -1 for the one without, and the row of each.
        """
        drawn = torch.multinomial(pool.double(), 1, generator=self.generator)[:, 0].tolist()
        ids: list[int] = []
        rows: list[int] = []
        for row, token in enumerate(drawn):
            expansion = self.expansions[token]
            ids += expansion or [-1]
            rows += [row] * max(len(expansion), 1)
            if not expansion:
                break
        return drawn, ids, rows

    def targets(self, count: int) -> torch.Tensor:
        counts = torch.randint(1, 100, (count, self.columns), generator=self.generator).double()
        return counts / counts.sum(1, keepdim=True)

    def uniforms(self, count: int) -> torch.Tensor:
        return torch.rand(count, generator=self.generator, dtype=torch.float64)


def emitted(result: ops.Verification) -> list[list[int]]:
    return [[token for token in row if token >= 0] for row in result.tokens.tolist()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(6))
def test_chains_equal_the_reference(seed: int, dtype: torch.dtype) -> None:
    pair = Pair(seed, draft=3000 if seed == 0 else 40)
    pools, chains = [], []
    for _ in range(12):
        pools.append(pair.probs(4, dtype))
        chains.append(pair.chain(pools[-1]))
    lengths = [len(ids) for _, ids, _ in chains]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    p = pair.targets(sum(lengths) + len(chains))
    uniforms = pair.uniforms(len(p))
    rows = [4 * b + row for b, (_, _, rows) in enumerate(chains) for row in rows]
    result = ops.verify(
        torch.tensor([token for _, ids, _ in chains for token in ids]),
        target_probs=p,
        draft_probs=torch.cat(pools),
        draft_rows=torch.tensor(rows),
        draft_map=pair.map,
        uniforms=uniforms,
        offsets=offsets,
    )
    expected = []
    for b, (begin, end) in enumerate(pairwise(offsets.tolist())):
        _, ids, of_chain = chains[b]
        pool = pools[b].double().tolist()
        q = references.mapped(pool, of_chain, ids, pair.expansions, pair.columns)
        of_targets = p[begin + b : end + b + 1].tolist()
        of_uniforms = uniforms[begin + b : end + b + 1].tolist()
        expected.append(references.verify(ids, q, of_targets, of_uniforms))
    assert emitted(result) == expected
    assert len(set(result.accepted.tolist())) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_tokens_as_by_way_of_transfer(dtype: torch.dtype) -> None:
    for seed in range(40):
        pair = Pair(seed)
        pool = pair.probs(5, dtype)
        drawn, ids, rows = pair.chain(pool)
        kept = [row for row, token in zip(rows, ids, strict=True) if token >= 0]
        ids = ids[: len(kept)]
        if not ids:
            continue
        spans = torch.tensor([[row, row + 1] for row in kept], dtype=torch.int32)
        count = kept[-1] + 1
        transferred = ops.transfer(
            pool[:count],
            draft_ids=torch.tensor(drawn[:count]),
            target_ids=torch.tensor(ids),
            target_spans=spans,
            draft_table=pair.draft_table,
            target_table=pair.target_table,
            vocabulary_map=pair.map,
        )
        arguments = {
            "target_logits": torch.randn(len(ids) + 1, pair.columns, generator=pair.generator),
            "uniforms": pair.uniforms(len(ids) + 1),
            "offsets": torch.tensor([0, len(ids)]),
        }
        expected = ops.verify(torch.tensor(ids), draft_probs=transferred.probs, **arguments)
        found = ops.verify(
            torch.tensor(ids),
            draft_probs=pool,
            draft_rows=torch.tensor(kept),
            draft_map=pair.map,
            **arguments,
        )
        assert torch.equal(found.tokens, expected.tokens), seed
        assert torch.equal(found.accepted, expected.accepted), seed


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_of_the_draft(dtype: torch.dtype) -> None:
    pair = Pair(1, draft=2100)
    logits = torch.randn(4, 2103, generator=pair.generator).mul(3).to(dtype)
    logits[:, 2100:] = math.nan  # the map does not reach the padding of the draft's head
    pool = torch.softmax(logits[:, :2100].double() / 0.7, 1)
    missed = 0
    target = torch.randn(40, pair.columns, generator=pair.generator).to(dtype)
    for _ in range(12):
        _, ids, rows = pair.chain(pool)
        missed += -1 in ids
        kept = len(ids)
        uniforms = pair.uniforms(kept + 1)
        found = ops.verify(
            torch.tensor(ids, dtype=torch.int64),
            target_logits=target[: kept + 1],
            draft_logits=logits,
            draft_rows=torch.tensor(rows, dtype=torch.int64),
            draft_map=pair.map,
            temperature=0.7,
            uniforms=uniforms,
            offsets=torch.tensor([0, kept]),
        )
        q = references.mapped(pool.tolist(), rows, ids, pair.expansions, pair.columns)
        p = [references.softmax(row, 0.7) for row in target[: kept + 1].double().tolist()]
        assert emitted(found) == [references.verify(ids, q, p, uniforms.tolist())]
    assert missed, "a draw from logits may be of a token that the target cannot spell"


@pytest.mark.parametrize("padded", [True, False])
def test_a_pool_of_rows(padded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    pool = torch.rand(5, 30, generator=generator)
    rows = torch.randint(5, (6, 3), generator=generator)
    ids = torch.randint(30, (6, 3), generator=generator)
    target = torch.randn(6, 4, 30, generator=generator)
    uniforms = torch.rand(6, 4, generator=generator)
    expected = ops.verify(ids, target_logits=target, draft_logits=pool[rows], uniforms=uniforms)
    if padded:
        found = ops.verify(
            ids, target_logits=target, draft_logits=pool, draft_rows=rows, uniforms=uniforms
        )
    else:
        found = ops.verify(
            ids.flatten(),
            target_logits=target.flatten(0, 1),
            draft_logits=pool,
            draft_rows=rows.flatten(),
            uniforms=uniforms.flatten(),
            offsets=torch.arange(0, 19, 3),
        )
    assert torch.equal(found.tokens, expected.tokens)


def test_a_temperature_for_each_chain() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(5, 4, 3000, generator=generator).mul(4)
    draft = target[:, :3] + torch.randn(5, 3, 3000, generator=generator)
    ids = draft.argmax(-1)
    uniforms = torch.rand(5, 4, generator=generator)
    temperatures = torch.tensor([0.0, 1.0, 0.0, 0.3, 2.5])
    found = ops.verify(
        ids,
        target_logits=target,
        draft_logits=draft,
        uniforms=uniforms,
        temperatures=temperatures,
    )
    for b, temperature in enumerate(temperatures.tolist()):
        one = slice(b, b + 1)
        alone = ops.verify(
            ids[one],
            target_logits=target[one],
            draft_logits=draft[one],
            uniforms=uniforms[one],
            temperature=temperature,
        )
        assert torch.equal(found.tokens[one], alone.tokens)
        assert torch.equal(found.accepted[one], alone.accepted)
    # The uniforms of a greedy chain are not read.
    uniforms[0] = math.nan
    again = ops.verify(
        ids, target_logits=target, draft_logits=draft, uniforms=uniforms, temperatures=temperatures
    )
    assert torch.equal(again.tokens, found.tokens)


PAIR = Pair(3)
GOOD = {
    "draft_ids": torch.tensor([0, 1]),
    "target_logits": torch.zeros(3, PAIR.columns),
    "draft_probs": torch.full((2, 40), 1 / 40),
    "draft_map": PAIR.map,
    "draft_rows": torch.tensor([0, 1]),
    "uniforms": torch.full((3,), 0.5),
    "offsets": torch.tensor([0, 2]),
}
NEGATIVE = torch.full((2, 40), 1 / 40)
NEGATIVE[0] = -1.0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"draft_map": 3}, TypeError, "draft_map must be an ops.VocabularyMap"),
        ({"draft_probs": None}, ValueError, "draft_map belongs to draft_probs or draft_logits"),
        (
            {"draft_probs": None, "draft_map": None},
            ValueError,
            "draft_rows belongs to draft_probs or draft_logits",
        ),
        (
            {"draft_probs": GOOD["draft_probs"][:, :39]},
            ValueError,
            "draft_map has 40 draft tokens, draft_probs only 39 columns",
        ),
        ({"draft_map": None}, ValueError, "draft_probs has 40 columns, target_logits has 12"),
        (
            {"draft_rows": torch.tensor([0, 2])},
            ValueError,
            r"draft_rows\[1\] is 2, not one of the 2 rows of draft_probs",
        ),
        ({"draft_rows": torch.tensor([-1, 0])}, ValueError, r"draft_rows\[0\] is -1"),
        ({"draft_rows": torch.tensor([0])}, ValueError, "draft_rows has 1 entries, draft_ids 2"),
        ({"draft_rows": torch.tensor([0, 1]).int()}, TypeError, "draft_rows must be int64"),
        ({"draft_rows": torch.zeros(1, 2)}, ValueError, r"draft_rows must have shape \[T\]"),
        ({"draft_probs": NEGATIVE}, ValueError, r"draft_probs\[0\] holds NaN, infinity or a neg"),
        ({"temperatures": torch.ones(2)}, ValueError, "temperatures has 2 entries; one for each"),
        ({"temperatures": torch.ones(1).double()}, TypeError, "temperatures must be float32"),
        ({"temperatures": -torch.ones(1)}, ValueError, r"temperatures\[0\] is -1"),
        (
            {"temperatures": torch.ones(1), "temperature": 0.5},
            TypeError,
            "temperature and temperatures are both given",
        ),
        ({"temperatures": torch.zeros(1), "uniforms": None}, ValueError, "uniforms are missing"),
    ],
)
def test_refusals(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^verify: {message}"):
        ops.verify(**GOOD | changes)


def test_a_map_to_tokens_beyond_the_target_is_refused() -> None:
    first = torch.tensor([0, 5], dtype=torch.int32)
    beyond = ops.VocabularyMap(first, first, torch.tensor([0, 1, 2]), first)
    with pytest.raises(ValueError, match=r"^verify: draft_map has 5 in first, outside a vocab"):
        ops.verify(
            torch.tensor([[0]]),
            target_probs=torch.tensor([[[0.0, 1.0], [0.5, 0.5]]]),
            draft_probs=torch.tensor([[[0.5, 0.5]]]),
            draft_map=beyond,
            uniforms=torch.full((1, 2), 0.5),
        )


def test_logits_over_no_tokens_are_refused() -> None:
    none = torch.empty(0, dtype=torch.int32)
    nothing = ops.VocabularyMap(none, none, torch.tensor([0]), none)
    with pytest.raises(ValueError, match=r"^verify: draft_logits\[0\] has no columns"):
        ops.verify(
            torch.tensor([[0]]),
            target_logits=torch.zeros(1, 2, 2),
            draft_logits=torch.zeros(1, 1, 0),
            draft_map=nothing,
            uniforms=torch.full((1, 2), 0.5),
        )
    with pytest.raises(ValueError, match=r"^restrict: draft_logits\[0\] has no columns"):
        ops.restrict(None, nothing, columns=2, draft_logits=torch.zeros(1, 0))


@pytest.mark.parametrize("temperature", [1e39, 1e60, 1e300])
def test_a_temperature_beyond_float32_leaves_out_logits_of_minus_infinity(
    temperature: float,
) -> None:
    result = ops.verify(
        torch.tensor([[1]]),
        target_logits=torch.tensor([[[-math.inf, 0.0, 5.0]] * 2]),
        draft_logits=torch.tensor([[[0.0, 9.0, -math.inf]]]),
        temperature=temperature,
        uniforms=torch.tensor([[0.9, 0.6]]),
    )
    assert result.tokens.tolist() == [[1, 2]]  # p and q of token 1 are both 1/2
